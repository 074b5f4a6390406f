//! What stands around every gRPC call: a limit, a measure, and a net under panics.

use std::{
    collections::BTreeSet,
    panic::AssertUnwindSafe,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::FutureExt;
use prost_reflect::DescriptorPool;
use tokio::{sync::Semaphore, time::Instant};
use tonic::{
    Code, Status,
    body::Body,
    codegen::http::{Request, Response, request::Parts},
};
use tower::{Layer, Service};

use crate::{
    metrics::{InFlight, Metrics},
    serve::door::{Caller, Denial, Door, Entrance, Peer, Role, is_open, role_for},
};

/// Label of calls to methods that we do not know: a client must not be able to invent label values.
const OTHER: &str = "other";

/// The services whose methods have a label of their own.
const SERVED: [&str; 2] = ["vtctlservice.Vtctld", "vtelector.Elector"];

/// Puts a [`Guard`] around a service.
#[derive(Clone)]
pub struct GuardLayer {
    shared: Arc<Shared>,
}

struct Shared {
    metrics: Arc<Metrics>,
    door: Arc<Door>,
    permits: Arc<Semaphore>,
    requests_max: usize,
    /// Paths of the methods that have a label of their own.
    methods: BTreeSet<String>,
}

impl GuardLayer {
    /// At most `requests_max` calls at the same time; those beyond are refused, not queued.
    pub fn new(metrics: Arc<Metrics>, door: Arc<Door>, schema: &DescriptorPool, requests_max: usize) -> Self {
        let services = schema.services().filter(|service| SERVED.contains(&service.full_name()));
        let methods = services.flat_map(|service| {
            let name = service.full_name().to_owned();
            service.methods().map(move |method| format!("/{name}/{}", method.name())).collect::<Vec<_>>()
        });
        let permits = Arc::new(Semaphore::new(requests_max));
        Self { shared: Arc::new(Shared { metrics, door, permits, requests_max, methods: methods.collect() }) }
    }
}

impl<S> Layer<S> for GuardLayer {
    type Service = Guard<S>;

    fn layer(&self, inner: S) -> Guard<S> {
        Guard { inner, shared: self.shared.clone() }
    }
}

/// A service with a limit, a measure and a net.
#[derive(Clone)]
pub struct Guard<S> {
    inner: S,
    shared: Arc<Shared>,
}

impl<S> Service<Request<Body>> for Guard<S>
where
    S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + 'static,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let path = request.uri().path().to_owned();
        let measure = Measure::start(&self.shared, &path);
        let Ok(permit) = self.shared.permits.clone().try_acquire_owned() else {
            let message = format!("{} requests are being answered already; try again", self.shared.requests_max);
            return Box::pin(async move { Ok(measure.end(Status::resource_exhausted(message).into_http())) });
        };
        // The inner service that was made ready is the one to call; its clone waits for the next.
        let next = self.inner.clone();
        let mut ready = std::mem::replace(&mut self.inner, next);
        let shared = self.shared.clone();
        Box::pin(async move {
            let _permit = permit;
            let (mut parts, body) = request.into_parts();
            match shared.admit(&path, &parts).await {
                Ok(caller) => parts.extensions.insert(caller),
                Err(denial) => return Ok(measure.end(Status::from(denial).into_http())),
            };
            let request = Request::from_parts(parts, body);
            let answer = AssertUnwindSafe(async move { ready.call(request).await }).catch_unwind().await;
            match answer {
                Ok(Ok(response)) => Ok(measure.end(explained(&path, response))),
                Ok(Err(error)) => Err(error),
                Err(_) => {
                    tracing::error!(path, "a request ended in a panic; its message is above, please report it");
                    let message = "internal error: the request ended in a panic; the server's log has its message";
                    Ok(measure.end(Status::internal(message).into_http()))
                }
            }
        })
    }
}

impl Shared {
    /// Who asks, if they may ask this.
    async fn admit(&self, path: &str, request: &Parts) -> Result<Caller, Denial> {
        let peer = request.extensions.get::<Peer>();
        let admitted = async {
            self.door.has_room(Entrance::Grpc, peer)?;
            if is_open(path) {
                return Ok(Caller::anybody(Role::Reader, String::new()));
            }
            let caller = self.door.admit(Entrance::Grpc, peer, &request.headers, None).await?;
            match caller.role >= role_for(path) {
                true => Ok(caller),
                false => Err(Denial::reader(path.rsplit('/').next().unwrap_or_default())),
            }
        };
        admitted.await.inspect_err(|denial| self.metrics.security.denied(Entrance::Grpc.name(), denial.reason()))
    }
}

/// The code of an answer. One without the header carries it behind its body, which only successes have.
fn code(response: &Response<Body>) -> Code {
    response.headers().get("grpc-status").map_or(Code::Ok, |value| Code::from_bytes(value.as_bytes()))
}

/// A method that the service does not have is answered without a word by the framework: say which, and where to go.
fn explained(path: &str, response: Response<Body>) -> Response<Body> {
    if code(&response) != Code::Unimplemented || response.headers().contains_key("grpc-message") {
        return response;
    }
    let shown: String = path.chars().take(128).collect();
    Status::unimplemented(format!("{shown} is not served by vtelector; ask vtctld for it")).into_http()
}

/// Measures one call; a call that is dropped unanswered (deadline, client gone) counts as cancelled.
struct Measure {
    shared: Arc<Shared>,
    method: String,
    started: Instant,
    code: Code,
    _in_flight: InFlight,
}

impl Measure {
    fn start(shared: &Arc<Shared>, path: &str) -> Self {
        let known = shared.methods.contains(path).then(|| path.rsplit('/').next()).flatten();
        let _in_flight = shared.metrics.grpc_in_flight();
        let method = known.unwrap_or(OTHER).to_owned();
        Self { shared: shared.clone(), method, started: Instant::now(), code: Code::Cancelled, _in_flight }
    }

    fn end(mut self, response: Response<Body>) -> Response<Body> {
        self.code = code(&response);
        response
    }
}

impl Drop for Measure {
    fn drop(&mut self) {
        self.shared.metrics.grpc_request(&self.method, &format!("{:?}", self.code), self.started.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body_util::BodyExt;
    use tower::{ServiceExt, service_fn};

    use super::*;
    use crate::{config::DoorSettings, pb};

    async fn answer(path: &str, inner: fn() -> Response<Body>) -> (Response<Body>, String) {
        let metrics = Arc::new(Metrics::new().unwrap());
        let schema = DescriptorPool::decode(pb::DESCRIPTORS).unwrap();
        let door = Arc::new(Door::new(&DoorSettings::default()).unwrap());
        let service = GuardLayer::new(metrics.clone(), door, &schema, 1)
            .layer(service_fn(move |_: Request<Body>| async move { Ok::<_, Infallible>(inner()) }));
        let response = service.oneshot(Request::builder().uri(path).body(Body::empty()).unwrap()).await.unwrap();
        (response, metrics.page().unwrap())
    }

    #[tokio::test]
    async fn a_panic_is_an_answer_and_counted() {
        let (response, page) = answer("/vtctlservice.Vtctld/GetShard", || panic!("the test says so")).await;
        assert_eq!(code(&response), Code::Internal);
        assert!(page.contains(r#"vtelector_grpc_requests_total{code="Internal",method="GetShard"} 1"#), "{page}");
        assert!(page.contains("vtelector_grpc_requests_in_flight 0"));
    }

    #[tokio::test]
    async fn a_success_has_no_code_before_its_body() {
        let (response, page) = answer("/vtctlservice.Vtctld/GetShard", || Response::new(Body::empty())).await;
        assert!(response.into_body().collect().await.unwrap().to_bytes().is_empty());
        assert!(page.contains(r#"vtelector_grpc_requests_total{code="Ok",method="GetShard"} 1"#), "{page}");
    }

    #[tokio::test]
    async fn no_client_invents_a_label() {
        let (response, page) = answer("/evil/\u{61}nything", || Status::unimplemented("").into_http()).await;
        assert_eq!(code(&response), Code::Unimplemented);
        assert!(page.contains(r#"{code="Unimplemented",method="other"} 1"#) && !page.contains("nything"), "{page}");
    }
}
