//! What the service manager is told, as sd_notify(3) has it. Where there is none, nothing happens.

use sd_notify::NotifyState;

use crate::policy_store;

/// The daemon is up.
pub(super) fn ready() {
    tracing::info!("ready");
    tell(&[NotifyState::Ready]);
}

/// The daemon is going down.
pub(super) fn stopping() {
    tracing::info!("shutting down");
    tell(&[NotifyState::Stopping]);
}

/// Has the policy read again. The manager is told when that has begun and when it is done.
pub(super) async fn reload(policy: policy_store::Handle) {
    match NotifyState::monotonic_usec_now() {
        Ok(now) => tell(&[NotifyState::Reloading, now]),
        Err(error) => tracing::warn!(%error, "there is no time"),
    }
    policy.reloaded().await;
    tell(&[NotifyState::Ready]);
}

/// Tells a manager that asks for it, again and again, that the event queue moves on: the one on
/// which connections are accepted and the control socket answers.
pub(super) async fn feed_watchdog() {
    let Some(limit) = sd_notify::watchdog_enabled() else {
        return;
    };
    let mut ticks = tokio::time::interval(limit / 3);
    loop {
        ticks.tick().await;
        tell(&[NotifyState::Watchdog]);
    }
}

fn tell(news: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(news) {
        tracing::warn!(%error, ?news, "the service manager could not be told");
    }
}
