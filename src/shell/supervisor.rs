//! What systemd is told (`Type=notify`): that the node is ready, that it stops, and now and then that it lives.
//!
//! Owns: when which word is sent. Touches: the socket that `NOTIFY_SOCKET` names, by the `sd-notify` crate; without the
//! variable nothing happens. Must hold: the executor never waits for systemd; it is the executor that says that it lives,
//! so that a loop that hangs is noticed.

use std::time::Duration;

use glommio::timer::Timer;
use sd_notify::NotifyState;

/// How long recovery may take before systemd gives the start up: a store that is too large for that needs minutes for a
/// snapshot as well.
const RECOVERY_LIMIT: Duration = Duration::from_secs(600);
/// Beyond the next word of one that waits for its cluster (every five seconds).
const WAITING_LIMIT: Duration = Duration::from_secs(60);

/// Sends words; systemd that does not listen costs a thread of the pool a moment, not the loop.
async fn tell(words: &'static [NotifyState<'static>]) {
    send(glommio::executor().spawn_blocking(move || sd_notify::notify(words)).await);
}

fn send(sent: std::io::Result<()>) {
    if let Err(error) = sent {
        tracing::warn!("systemd cannot be told: {error}");
    }
}

const fn extend(limit: Duration) -> NotifyState<'static> {
    NotifyState::ExtendTimeoutUsec(limit.as_micros() as u32)
}

/// Recovery begins: it keeps the loop, so nothing can be said until it is over.
pub async fn recovering() {
    tell(&[const { extend(RECOVERY_LIMIT) }, NotifyState::Status("recovering the data directory")]).await;
}

/// The cluster is not there yet. Called every few seconds.
pub async fn waiting() {
    tell(&[const { extend(WAITING_LIMIT) }, NotifyState::Status("waiting for the cluster")]).await;
}

/// Clients are served from now on; begins to say that the loop lives, if systemd wants to hear it.
pub async fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("serving clients")]).await;
    if let Some(limit) = sd_notify::watchdog_enabled() {
        glommio::spawn_local(async move {
            loop {
                tell(&[NotifyState::Watchdog]).await;
                // Half of it, as systemd recommends.
                Timer::new(limit / 2).await;
            }
        })
        .detach();
    }
}

/// The end has begun.
pub async fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("stopping")]).await;
}
