//! Scenario files.

use ringd::core::event::ClientToken;

use crate::client::Reply;
use crate::world::World;

impl World {
    pub(crate) fn scripted_answer(&mut self, _token: ClientToken, _reply: Reply) {}
}
