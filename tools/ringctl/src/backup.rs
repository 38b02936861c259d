//! placeholder
use crate::{Invocation, Outcome};
pub fn run(_call: &Invocation) -> Outcome {
    Ok(())
}
