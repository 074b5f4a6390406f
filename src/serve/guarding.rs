//! What is said of our protection: at the start, in gauges, and when certificates near their end.

use std::{path::PathBuf, sync::Arc, time::Duration};

use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::door::{Door, Entrance};
use crate::{config::Settings, metrics::SecurityMetrics, rotating::Rotating, tls, tls::ServerSide};

/// How often certificates are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// Says once what is not protected.
pub fn announce(door: &Door, metrics: &SecurityMetrics) {
    let open: Vec<&str> =
        [Entrance::Grpc, Entrance::Http].into_iter().filter(|at| !door.is_locked(*at)).map(Entrance::name).collect();
    for entrance in [Entrance::Grpc, Entrance::Http] {
        metrics.unprotected(entrance.name(), !door.is_locked(entrance));
    }
    let what = match open.as_slice() {
        [] => return,
        ["http"] => "HTTP: whoever reaches it may read, and give commands from this machine itself",
        ["grpc"] => "gRPC: whoever reaches it may give commands",
        _ => "nothing is protected: whoever reaches gRPC may give commands, and read over HTTP",
    };
    let remedy = "--grpc-auth-mode, --auth-token-file and --http-ca demand a proof; docs/security.md";
    tracing::info!(unprotected = open.join(","), remedy, "{what}");
}

/// A use of TLS, and the file of our certificate for it.
fn certificates(settings: &Settings) -> Vec<(&'static str, PathBuf)> {
    let own = |files: &Option<(PathBuf, PathBuf)>| files.as_ref().map(|(cert, _)| cert.clone());
    let uses = [
        ("grpc", settings.grpc_tls.as_ref().map(|tls| tls.identity.cert.clone())),
        ("http", settings.door.http_tls.as_ref().map(|tls| tls.identity.cert.clone())),
        ("tablets", settings.tablet_tls.as_ref().and_then(|tls| own(&tls.identity))),
        ("etcd", settings.topo.tls.as_ref().and_then(|tls| own(&tls.identity))),
        ("mysql", settings.mysql_tls.as_ref().and_then(|tls| own(&tls.files.identity))),
    ];
    uses.into_iter().filter_map(|(of, file)| Some((of, file?))).collect()
}

/// Looks at every file now and then, also when nobody comes, until `closing`.
pub fn run(
    settings: &Settings,
    door: Arc<Door>,
    metrics: SecurityMetrics,
    servers: [Option<Rotating<ServerSide>>; 2],
    closing: CancellationToken,
) -> impl Future<Output = ()> + Send + use<> {
    let certificates = certificates(settings);
    async move {
        let mut looks = interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while closing.run_until_cancelled(looks.tick()).await.is_some() {
            door.look().await;
            for server in servers.iter().flatten() {
                server.current().await;
            }
            let files = certificates.clone();
            let read = move || files.into_iter().map(|(of, file)| (of, std::fs::read(file).ok())).collect::<Vec<_>>();
            let Ok(read) = tokio::task::spawn_blocking(read).await else { continue };
            for (of, content) in read {
                metrics.certificate(of, content.as_deref().and_then(tls::not_after_s));
            }
        }
    }
}
