//! Keeps this elector registered: a key under a lease that shows that it lives, and one that shows for a day that it did.

use std::{sync::Arc, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::roll::{Elector, Keys};
use crate::topo::{Kv, KvError, LeaseId};

/// How long an elector counts as alive after its last keepalive (safety rules, section 11).
pub(super) const LEASE_TTL: Duration = Duration::from_secs(3);
/// Three times within the lease's life.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(1);
/// Pause after a failure.
const RETRY_INTERVAL: Duration = Duration::from_millis(300);
/// How often the key that stays is written: a small part of the day for which it counts.
const SEEN_INTERVAL: Duration = Duration::from_secs(3600);
/// Keys that stayed for so long are deleted: their electors ceased to be voters long before.
const FORGET_AFTER: Duration = Duration::from_secs(7 * 24 * 3600);
/// Limit of the farewell. Whoever does not manage it is missed when its lease ends.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// Milliseconds since 1970 by this host's clock.
pub(super) fn now_ms() -> u64 {
    jiff::Timestamp::now().as_millisecond().try_into().unwrap_or_default()
}

/// The task.
pub(super) struct Registrar {
    pub kv: Arc<dyn Kv>,
    pub keys: Keys,
    /// What to register; `None` until it is known.
    pub me: watch::Receiver<Option<Elector>>,
    pub stop: CancellationToken,
}

/// A registration that stands as far as we know.
struct Held {
    lease: LeaseId,
    me: Elector,
    /// When the key that stays is due again.
    seen_due: Instant,
}

impl Registrar {
    /// Runs until told to stop, and then says farewell.
    pub async fn run(mut self) {
        let (stop, mut held) = (self.stop.clone(), None);
        while let Some(()) = stop.run_until_cancelled(self.turn(&mut held)).await {}
        if let Some(Held { lease, .. }) = held {
            // Those who stay take over at once and not when the lease ends; an error only costs them that.
            let _ = timeout(FAREWELL_LIMIT, self.kv.lease_revoke(lease)).await;
        }
    }

    /// Registers, or keeps the registration alive, and waits until that is due again.
    async fn turn(&mut self, held: &mut Option<Held>) {
        let Some(me) = self.me.borrow_and_update().clone() else {
            // The sender lives as long as this task is wanted.
            let _ = self.me.changed().await;
            return;
        };
        let done = match held {
            Some(held) if held.me == me => self.keep(held).await,
            Some(_) | None => self.register(me, held).await,
        };
        let pause = match done {
            Ok(()) => KEEPALIVE_INTERVAL,
            Err(KvError::LeaseGone { .. }) => {
                tracing::info!("this elector's registration had lapsed and is made anew");
                *held = None;
                return;
            }
            Err(error) => {
                tracing::debug!(%error, "this elector is not registered, or no longer for long");
                RETRY_INTERVAL
            }
        };
        tokio::select! {
            () = sleep_until(Instant::now() + pause) => {}
            changed = self.me.changed() => drop(changed),
        }
    }

    /// A new registration goes before the old one is withdrawn, so that nobody sees none.
    async fn register(&self, me: Elector, held: &mut Option<Held>) -> Result<(), KvError> {
        let lease = self.kv.lease_grant(LEASE_TTL).await?;
        let mut now = me.clone();
        now.seen_at_ms = now_ms();
        self.kv.create(&self.keys.alive(&me.id, lease), now.encode(), Some(lease)).await?;
        tracing::info!(id = me.id, region = me.region, "registered among the electors");
        let old = held.replace(Held { lease, me, seen_due: Instant::now() });
        if let Some(Held { lease, .. }) = old {
            self.kv.lease_revoke(lease).await?;
        }
        match held {
            Some(held) => self.keep(held).await,
            None => Ok(()),
        }
    }

    async fn keep(&self, held: &mut Held) -> Result<(), KvError> {
        self.kv.lease_keepalive(held.lease).await?;
        if held.seen_due <= Instant::now() {
            let mut seen = held.me.clone();
            seen.seen_at_ms = now_ms();
            self.kv.put(&self.keys.seen(&seen.id), seen.encode()).await?;
            held.seen_due = Instant::now() + SEEN_INTERVAL;
            self.forget_the_old(seen.seen_at_ms).await?;
        }
        Ok(())
    }

    async fn forget_the_old(&self, now_ms: u64) -> Result<(), KvError> {
        for entry in self.kv.list(&self.keys.seen("")).await?.entries {
            let Ok(elector) = serde_json::from_slice::<Elector>(&entry.value) else { continue };
            if now_ms.saturating_sub(elector.seen_at_ms) > FORGET_AFTER.as_millis() as u64 {
                match self.kv.delete(&entry.key, Some(entry.version)).await {
                    // It has come back just now, or another elector was faster.
                    Ok(_) | Err(KvError::BadVersion { .. }) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}
