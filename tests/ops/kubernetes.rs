//! deploy/kubernetes: read by the types of Kubernetes' own API, of which no field may be left over; and held to the restricted profile.

use k8s_openapi::api::{
    apps::v1::StatefulSet,
    core::v1::{ConfigMap, Container, PodSpec, Service, ServiceAccount},
    networking::v1::NetworkPolicy,
    policy::v1::PodDisruptionBudget,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::Value;

use super::read;

const CELLS: [&str; 3] = ["zone1", "zone2", "zone3"];

fn objects() -> Vec<Value> {
    let files = std::iter::once("common".to_owned()).chain(CELLS.map(|cell| format!("elector-{cell}")));
    let texts: Vec<String> = files.map(|file| read(&format!("deploy/kubernetes/{file}.yaml"))).collect();
    let documents = texts.iter().flat_map(|text| serde_yaml_ng::Deserializer::from_str(text));
    documents.map(|document| Value::deserialize(document).unwrap()).collect()
}

fn of_kind(kind: &str) -> Vec<Value> {
    objects().into_iter().filter(|object| object["kind"] == kind).collect()
}

/// Everything of `given` is in `kept`: nothing was dropped because the API does not know it.
fn left_over(given: &Value, kept: &Value, place: &str) -> Vec<String> {
    match (given, kept) {
        (Value::Object(given), Value::Object(kept)) => {
            let each = given.iter().flat_map(|(key, value)| match kept.get(key) {
                Some(kept) => left_over(value, kept, &format!("{place}.{key}")),
                // What is empty may be left out when it is written again.
                None if value.is_null() => Vec::new(),
                None => vec![format!("{place}.{key}")],
            });
            each.collect()
        }
        (Value::Array(given), Value::Array(kept)) if given.len() == kept.len() => {
            let each = given.iter().zip(kept).enumerate();
            each.flat_map(|(number, (given, kept))| left_over(given, kept, &format!("{place}[{number}]"))).collect()
        }
        (given, kept) if given == kept => Vec::new(),
        (given, kept) => vec![format!("{place}: {given} was understood as {kept}")],
    }
}

fn understood<T: DeserializeOwned + Serialize>(object: &Value) -> T {
    let name = format!("{} {}", object["kind"], object["metadata"]["name"]);
    let typed: T = serde_json::from_value(object.clone()).unwrap_or_else(|error| panic!("{name}: {error}"));
    let left = left_over(object, &serde_json::to_value(&typed).unwrap(), &name);
    assert!(left.is_empty(), "the API knows nothing of {left:#?}");
    typed
}

#[test]
fn every_object_is_of_a_kind_that_is_looked_at_and_every_field_is_one_of_the_api() {
    for object in objects() {
        match (object["apiVersion"].as_str().unwrap(), object["kind"].as_str().unwrap()) {
            ("v1", "ServiceAccount") => drop(understood::<ServiceAccount>(&object)),
            ("v1", "ConfigMap") => drop(understood::<ConfigMap>(&object)),
            ("v1", "Service") => drop(understood::<Service>(&object)),
            ("policy/v1", "PodDisruptionBudget") => drop(understood::<PodDisruptionBudget>(&object)),
            ("networking.k8s.io/v1", "NetworkPolicy") => drop(understood::<NetworkPolicy>(&object)),
            ("apps/v1", "StatefulSet") => drop(understood::<StatefulSet>(&object)),
            ("monitoring.coreos.com/v1", "ServiceMonitor") => monitor(&object),
            other => panic!("nobody looks at {other:?}"),
        }
    }
}

#[test]
fn a_field_that_does_not_exist_is_noticed() {
    let mut object = of_kind("StatefulSet").remove(0);
    object["spec"]["template"]["spec"]["containers"][0]["readynessProbe"] = serde_json::json!({});
    let typed: StatefulSet = serde_json::from_value(object.clone()).unwrap();
    let left = left_over(&object, &serde_json::to_value(&typed).unwrap(), "it");
    assert_eq!(left, ["it.spec.template.spec.containers[0].readynessProbe"]);
}

/// Prometheus Operator's type is in no crate that is light: its fields are known here.
fn monitor(object: &Value) {
    let fields = |value: &Value| value.as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    let only = |value: &Value, known: &[&str]| fields(value).iter().all(|field| known.contains(&field.as_str()));
    let spec = &object["spec"];
    assert!(only(spec, &["jobLabel", "selector", "endpoints", "namespaceSelector", "targetLabels"]), "{spec}");
    for endpoint in spec["endpoints"].as_array().unwrap() {
        assert!(only(endpoint, &["port", "path", "interval", "scrapeTimeout", "scheme", "tlsConfig"]), "{endpoint}");
        assert_eq!((&endpoint["port"], &endpoint["path"]), (&"http".into(), &"/metrics".into()));
    }
    // Its job is named as the rules expect.
    assert_eq!(spec["jobLabel"], "app.kubernetes.io/name");
    assert_eq!(spec["selector"]["matchLabels"]["app.kubernetes.io/name"], "vtelector");
}

fn pods() -> Vec<(StatefulSet, PodSpec)> {
    let sets = of_kind("StatefulSet");
    sets.iter().map(understood::<StatefulSet>).map(|set| (set.clone(), set.spec.unwrap().template.spec.unwrap())).collect()
}

fn only_container(pod: &PodSpec) -> &Container {
    assert_eq!(pod.containers.len(), 1);
    &pod.containers[0]
}

#[test]
fn pods_keep_to_the_restricted_profile() {
    for (_, pod) in pods() {
        let of_pod = pod.security_context.clone().unwrap();
        assert_eq!((of_pod.run_as_non_root, of_pod.seccomp_profile.unwrap().type_.as_str()), (Some(true), "RuntimeDefault"));
        assert!(of_pod.run_as_user.unwrap() > 0);
        assert!(pod.host_network.is_none() && pod.host_pid.is_none() && pod.host_ipc.is_none());
        assert_eq!(pod.automount_service_account_token, Some(false));
        let container = only_container(&pod);
        let own = container.security_context.clone().unwrap();
        assert_eq!(
            (own.allow_privilege_escalation, own.read_only_root_filesystem, own.privileged),
            (Some(false), Some(true), None)
        );
        assert_eq!(own.capabilities.unwrap().drop, Some(vec!["ALL".to_owned()]));
        for volume in pod.volumes.clone().unwrap() {
            assert!(volume.config_map.is_some(), "{}", volume.name);
        }
    }
    let account: ServiceAccount = understood(&of_kind("ServiceAccount")[0]);
    assert_eq!(account.automount_service_account_token, Some(false));
}

#[test]
fn one_elector_for_each_cell_each_with_a_name_and_probes_of_its_own() {
    let pods = pods();
    assert_eq!(pods.len(), CELLS.len());
    for (cell, (set, pod)) in CELLS.iter().zip(&pods) {
        let spec = set.spec.clone().unwrap();
        assert_eq!((spec.replicas, spec.service_name.as_deref()), (Some(1), Some("vtelector")));
        let container = only_container(pod);
        let args = container.args.clone().unwrap();
        assert!(args.contains(&format!("--cell={cell}")), "{args:?}");
        let command = format!("vtelector {}", args.join(" ").replace("$(POD_NAME)", "pod").replace("$(POD_NAMESPACE)", "space"));
        super::commands::understood(&command).unwrap();
        let path = |probe: &Option<k8s_openapi::api::core::v1::Probe>| probe.clone().unwrap().http_get.unwrap().path.unwrap();
        assert_eq!(
            (path(&container.liveness_probe), path(&container.readiness_probe)),
            ("/livez".to_owned(), "/readyz".to_owned())
        );
        assert!(container.startup_probe.is_none());
        assert!(pod.termination_grace_period_seconds.unwrap() > 30, "longer than --shutdown-wait-time");
    }
    // Apart from the cell's name they are the same.
    let text = |cell: &str| read(&format!("deploy/kubernetes/elector-{cell}.yaml")).replace(cell, "CELL");
    assert!(CELLS.iter().all(|cell| text(cell) == text("zone1")));
}

#[test]
fn selectors_find_the_pods() {
    let (set, _) = pods().remove(0);
    let template = set.spec.clone().unwrap().template.metadata.unwrap().labels.unwrap();
    let matches =
        |wanted: &std::collections::BTreeMap<String, String>| wanted.iter().all(|(key, value)| template.get(key) == Some(value));
    assert!(matches(&set.spec.unwrap().selector.match_labels.unwrap()));
    for service in of_kind("Service") {
        let service: Service = understood(&service);
        let spec = service.spec.unwrap();
        assert!(matches(&spec.selector.unwrap()));
        let ports: Vec<i32> = spec.ports.unwrap().iter().map(|port| port.port).collect();
        assert_eq!(ports, [15999, 16000]);
    }
    let budget: PodDisruptionBudget = understood(&of_kind("PodDisruptionBudget")[0]);
    assert!(matches(&budget.spec.unwrap().selector.unwrap().match_labels.unwrap()));
    let policy: NetworkPolicy = understood(&of_kind("NetworkPolicy")[0]);
    assert!(matches(&policy.spec.unwrap().pod_selector.unwrap().match_labels.unwrap()));
}

#[test]
fn the_settings_are_settings() {
    let map: ConfigMap = understood(&of_kind("ConfigMap")[0]);
    let content = map.data.unwrap().remove("vtelector.toml").unwrap();
    let layers = vtelector::config::Layers::new(vec!["--config-file=vtelector.toml".into()], |_| None).unwrap();
    layers.settings(Some(&content)).unwrap();
}
