//! What a request for a reparent asks for, checked before anything is locked. What only vtelector knows stands beside vtctld's requests
//! in the metadata, and in fields of our own requests.

use std::{collections::BTreeSet, time::Duration};

use tonic::metadata::{KeyRef, MetadataMap};

use super::{input, refusal::Refusal};
use crate::{
    mysql::{GtidSet, Position},
    pb::{
        topodata,
        vtctldata::{EmergencyReparentShardRequest, PlannedReparentShardRequest},
        vttime,
    },
    reparent::{Emergency, MODE_KEY, Mode, Planned},
    topo::TabletAlias,
};

/// Every key of ours begins like this; one that does and is not known is a mistake, not a stranger's.
const OUR_KEYS: &str = "vtelector-";
const ACCEPT_LOSS_KEY: &str = "vtelector-accept-loss";
const CHOOSE_SIDE_KEY: &str = "vtelector-choose-side";
const ALLOW_NOT_ESTABLISHED_KEY: &str = "vtelector-allow-not-established";

/// What only a person can decide in an emergency.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// These transactions may be lost.
    pub accept_loss: Option<GtidSet>,
    /// The new primary's side of a divergence is the right one.
    pub choose_side: bool,
    /// The new primary need not be able to commit yet.
    pub not_established: bool,
}

impl Allowed {
    /// As it stands in the metadata of vtctld's call.
    pub fn from_metadata(metadata: &MetadataMap) -> Result<Self, Refusal> {
        check_our_keys(metadata, &[ACCEPT_LOSS_KEY, CHOOSE_SIDE_KEY, ALLOW_NOT_ESTABLISHED_KEY])?;
        Ok(Self {
            accept_loss: one(metadata, ACCEPT_LOSS_KEY)?.map(|text| gtid_set(&in_metadata(ACCEPT_LOSS_KEY), text)).transpose()?,
            choose_side: flag(metadata, CHOOSE_SIDE_KEY)?,
            not_established: flag(metadata, ALLOW_NOT_ESTABLISHED_KEY)?,
        })
    }
}

/// The mode of vtctld's planned reparent, which its request has no field for.
pub fn mode(metadata: &MetadataMap) -> Result<Mode, Refusal> {
    check_our_keys(metadata, &[MODE_KEY])?;
    let Some(name) = one(metadata, MODE_KEY)? else { return Ok(Mode::default()) };
    let wrong = || Refusal::invalid(format!("{}: {name:?} is no mode; write graceful or abrupt", in_metadata(MODE_KEY)));
    Mode::named(name).ok_or_else(wrong)
}

/// What a planned reparent is asked for; `wait` is the server's limit where the request has none.
pub fn planned(request: &PlannedReparentShardRequest, mode: Mode, wait: Duration) -> Result<Planned, Refusal> {
    let lag = input::duration("tolerable_replication_lag", request.tolerable_replication_lag.as_ref())?;
    Ok(Planned {
        new_primary: input::optional_alias("new_primary", request.new_primary.as_ref())?,
        avoid_primary: input::optional_alias("avoid_primary", request.avoid_primary.as_ref())?,
        expected_primary: input::optional_alias("expected_primary", request.expected_primary.as_ref())?,
        wait_replicas_timeout: wait_replicas_timeout(request.wait_replicas_timeout.as_ref(), wait)?,
        tolerable_lag: lag.filter(|lag| !lag.is_zero()),
        allow_cross_cell: request.allow_cross_cell_promotion,
        mode,
    })
}

/// What an emergency reparent is asked for. It is a person's call: Vitess's shortcut under a policy without ackers is open.
pub fn emergency(request: &EmergencyReparentShardRequest, allowed: Allowed, wait: Duration) -> Result<Emergency, Refusal> {
    let new_primary = input::optional_alias("new_primary", request.new_primary.as_ref())?;
    let ignore_replicas = ignored(&request.ignore_replicas)?;
    if let Some(alias) = new_primary.as_ref().filter(|alias| ignore_replicas.contains(alias)) {
        return Err(Refusal::invalid(format!("{alias} is both new_primary and in ignore_replicas; leave one of the two out")));
    }
    if allowed.choose_side && new_primary.is_none() {
        return Err(Refusal::invalid("choosing a side of a divergence needs new_primary: name the tablet whose side is kept"));
    }
    Ok(Emergency {
        new_primary,
        ignore_replicas,
        expected_primary: input::optional_alias("expected_primary", request.expected_primary.as_ref())?,
        wait_replicas_timeout: wait_replicas_timeout(request.wait_replicas_timeout.as_ref(), wait)?,
        prevent_cross_cell: request.prevent_cross_cell_promotion,
        wait_for_all_tablets: request.wait_for_all_tablets,
        accept_loss: allowed.accept_loss,
        choose_side: allowed.choose_side,
        allow_not_established: allowed.not_established,
        allow_unfenced: true,
        seen: None,
        is_dead: false,
    })
}

/// A GTID set, with or without Vitess's `MySQL56/` before it. One without transactions allows nothing and is not what anybody means.
pub fn gtid_set(field: &str, text: &str) -> Result<GtidSet, Refusal> {
    let value = text.trim();
    let value = if value.contains('/') { value.to_owned() } else { format!("MySQL56/{value}") };
    let wrong =
        |why: String| Refusal::invalid(format!("{field}: {why}; write the GTID set that the refusal named, such as UUID:1-5"));
    match Position::decode(&value).map_err(|e| wrong(e.to_string()))? {
        Position::Gtid(set) if !set.is_empty() => Ok(set),
        Position::Gtid(_) => Err(wrong("it names no transaction".to_owned())),
        Position::None | Position::Other { .. } => Err(wrong("it is not a MySQL GTID set".to_owned())),
    }
}

fn ignored(listed: &[topodata::TabletAlias]) -> Result<BTreeSet<TabletAlias>, Refusal> {
    let mut ignored = BTreeSet::new();
    for (i, given) in listed.iter().enumerate() {
        let alias = input::alias(&format!("ignore_replicas[{i}]"), Some(given))?;
        if !ignored.insert(alias.clone()) {
            return Err(Refusal::invalid(format!("ignore_replicas: {alias} is there twice; was another tablet meant?")));
        }
    }
    Ok(ignored)
}

/// The limit that the request gives, or the server's.
pub fn wait_replicas_timeout(given: Option<&vttime::Duration>, default: Duration) -> Result<Duration, Refusal> {
    let field = "wait_replicas_timeout";
    match input::duration(field, given)? {
        None => Ok(default),
        Some(Duration::ZERO) => {
            Err(Refusal::invalid(format!("{field}: nothing can be waited for in 0 s; leave it unset for the server's default")))
        }
        Some(wait) => Ok(wait),
    }
}

fn in_metadata(key: &str) -> String {
    format!("metadata {key}")
}

/// A key of ours that this call does not know, such as a misspelt one, must not be taken for granted.
fn check_our_keys(metadata: &MetadataMap, known: &[&str]) -> Result<(), Refusal> {
    let keys = metadata.keys().map(|key| match key {
        KeyRef::Ascii(key) => key.as_str(),
        KeyRef::Binary(key) => key.as_str(),
    });
    match keys.filter(|key| key.starts_with(OUR_KEYS)).find(|key| !known.contains(key)) {
        None => Ok(()),
        Some(key) => Err(Refusal::invalid(format!("metadata {key} is not known to this call; it takes {}", known.join(", ")))),
    }
}

/// The one text under a key.
fn one<'a>(metadata: &'a MetadataMap, key: &str) -> Result<Option<&'a str>, Refusal> {
    let mut values = metadata.get_all(key).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::invalid(format!("{} is given more than once", in_metadata(key))));
    }
    let text = value.to_str().map_err(|_| Refusal::invalid(format!("{}: {value:?} is not plain text", in_metadata(key))))?;
    Ok(Some(text))
}

fn flag(metadata: &MetadataMap, key: &str) -> Result<bool, Refusal> {
    match one(metadata, key)? {
        None | Some("false") => Ok(false),
        Some("true") => Ok(true),
        Some(other) => Err(Refusal::invalid(format!("{}: {other:?} is neither true nor false", in_metadata(key)))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_secs(30);
    const UUID: &str = "aaaaaaaa-0000-4000-8000-00000000000a";

    fn metadata(pairs: &[(&'static str, &str)]) -> MetadataMap {
        let mut map = MetadataMap::new();
        for (key, value) in pairs {
            map.append(*key, value.parse().unwrap());
        }
        map
    }

    fn tablet(uid: u32) -> topodata::TabletAlias {
        topodata::TabletAlias { cell: "zone1".to_owned(), uid }
    }

    #[test]
    fn what_a_person_allows_stands_in_the_metadata() {
        assert_eq!(Allowed::from_metadata(&metadata(&[("grpc-timeout", "1S")])), Ok(Allowed::default()));
        let given = [
            ("vtelector-accept-loss", "AAAAAAAA-0000-4000-8000-00000000000A:7-9"),
            ("vtelector-choose-side", "true"),
            ("vtelector-allow-not-established", "false"),
        ];
        let lost: GtidSet = format!("{UUID}:7-9").parse().unwrap();
        let allowed = Allowed { accept_loss: Some(lost), choose_side: true, not_established: false };
        assert_eq!(Allowed::from_metadata(&metadata(&given)), Ok(allowed));
    }

    #[test]
    fn garbage_in_the_metadata_is_named_with_its_key() {
        for (pairs, words) in [
            (&[("vtelector-accept-loss", "everything")][..], "metadata vtelector-accept-loss: "),
            (&[("vtelector-accept-loss", "")], "names no transaction"),
            (&[("vtelector-accept-loss", "MySQL56/")], "names no transaction"),
            (&[("vtelector-accept-loss", "FilePos/binlog.1:4")], "not a MySQL GTID set"),
            (&[("vtelector-choose-side", "yes")], r#"metadata vtelector-choose-side: "yes" is neither true nor false"#),
            (&[("vtelector-allow-not-established", "TRUE")], "neither true nor false"),
            (&[("vtelector-choose-side", "true"), ("vtelector-choose-side", "true")], "more than once"),
            (&[("vtelector-acept-loss", "x")], "metadata vtelector-acept-loss is not known to this call"),
            (&[("vtelector-mode", "abrupt")], "vtelector-mode is not known"),
        ] {
            let error = Allowed::from_metadata(&metadata(pairs)).unwrap_err();
            assert!(error.message.contains(words), "{words:?} is not in {:?}", error.message);
        }
        let wrong = mode(&metadata(&[(MODE_KEY, "gentle")])).unwrap_err();
        assert!(wrong.message.contains(r#"metadata vtelector-mode: "gentle" is no mode"#), "{wrong}");
        assert!(mode(&metadata(&[("vtelector-choose-side", "true")])).is_err());
        assert_eq!(mode(&metadata(&[(MODE_KEY, "abrupt")])), Ok(Mode::Abrupt));
    }

    #[test]
    fn an_emergency_request_means_what_vtctlds_fields_mean() {
        let request = EmergencyReparentShardRequest {
            new_primary: Some(tablet(101)),
            ignore_replicas: vec![tablet(103), tablet(102)],
            wait_replicas_timeout: Some(vttime::Duration { seconds: 2, nanos: 0 }),
            prevent_cross_cell_promotion: true,
            wait_for_all_tablets: true,
            expected_primary: Some(tablet(100)),
            ..Default::default()
        };
        let wish = emergency(&request, Allowed::default(), WAIT).unwrap();
        assert_eq!(wish.new_primary.unwrap().to_string(), "zone1-0000000101");
        assert_eq!(wish.expected_primary.unwrap().to_string(), "zone1-0000000100");
        let ignored: Vec<String> = wish.ignore_replicas.iter().map(ToString::to_string).collect();
        assert_eq!(ignored, ["zone1-0000000102", "zone1-0000000103"]);
        assert_eq!((wish.wait_replicas_timeout, wish.prevent_cross_cell, wish.wait_for_all_tablets), (WAIT / 15, true, true));
        assert!(wish.allow_unfenced && wish.accept_loss.is_none() && !wish.choose_side && !wish.allow_not_established);

        let wish = emergency(&EmergencyReparentShardRequest::default(), Allowed::default(), WAIT).unwrap();
        assert!(wish.new_primary.is_none() && wish.ignore_replicas.is_empty() && wish.wait_replicas_timeout == WAIT);
    }

    #[test]
    fn an_emergency_request_that_contradicts_itself_is_refused() {
        let request = EmergencyReparentShardRequest::default;
        let slash = topodata::TabletAlias { cell: "a/b".to_owned(), uid: 1 };
        for (request, words) in [
            (
                EmergencyReparentShardRequest { ignore_replicas: vec![tablet(1), tablet(1)], ..request() },
                "zone1-0000000001 is there twice",
            ),
            (
                EmergencyReparentShardRequest { ignore_replicas: vec![tablet(1), Default::default()], ..request() },
                "ignore_replicas[1] is required",
            ),
            (EmergencyReparentShardRequest { ignore_replicas: vec![slash.clone()], ..request() }, "ignore_replicas[0]: "),
            (EmergencyReparentShardRequest { new_primary: Some(slash), ..request() }, "new_primary: "),
            (
                EmergencyReparentShardRequest { new_primary: Some(tablet(1)), ignore_replicas: vec![tablet(1)], ..request() },
                "zone1-0000000001 is both new_primary and in ignore_replicas",
            ),
            (
                EmergencyReparentShardRequest { wait_replicas_timeout: Some(vttime::Duration::default()), ..request() },
                "wait_replicas_timeout: ",
            ),
        ] {
            let error = emergency(&request, Allowed::default(), WAIT).unwrap_err();
            assert!(error.message.contains(words), "{words:?} is not in {:?}", error.message);
        }
        let side = Allowed { choose_side: true, ..Allowed::default() };
        assert!(emergency(&request(), side, WAIT).unwrap_err().message.contains("needs new_primary"));
    }
}
