//! What a request says, checked: every mistake is named with the field that it is in.

use std::time::Duration;

use super::refusal::Refusal;
use crate::{
    pb::{topodata, topodata::TabletType, vttime},
    topo::{ShardId, TabletAlias, check_cell, check_name},
};

/// A tablet that must be named.
pub fn alias(field: &str, alias: Option<&topodata::TabletAlias>) -> Result<TabletAlias, Refusal> {
    optional_alias(field, alias)?
        .ok_or_else(|| Refusal::invalid(format!("{field} is required: name a tablet, such as zone1-0000000100")))
}

/// A tablet that may be named. An alias without cell and number is none, as in Vitess.
pub fn optional_alias(field: &str, alias: Option<&topodata::TabletAlias>) -> Result<Option<TabletAlias>, Refusal> {
    match alias {
        None => Ok(None),
        Some(alias) if alias.cell.is_empty() && alias.uid == 0 => Ok(None),
        Some(alias) => TabletAlias::try_from(alias).map(Some).map_err(|e| Refusal::invalid(format!("{field}: {e}"))),
    }
}

/// A keyspace that must be named.
pub fn keyspace<'a>(field: &str, name: &'a str) -> Result<&'a str, Refusal> {
    if name.is_empty() {
        return Err(Refusal::invalid(format!("{field} is required: name a keyspace")));
    }
    check_name("keyspace name", name).map_err(|e| Refusal::invalid(format!("{field}: {e}")))?;
    Ok(name)
}

/// A shard that must be named; `field` is what its message calls it.
pub fn shard(keyspace_name: &str, field: &str, shard: &str) -> Result<ShardId, Refusal> {
    keyspace("keyspace", keyspace_name)?;
    if shard.is_empty() {
        return Err(Refusal::invalid(format!("{field} is required: name a shard of {keyspace_name}, such as 0 or -80")));
    }
    ShardId::new(keyspace_name, shard).map_err(|e| Refusal::invalid(format!("{field}: {e}")))
}

/// A cell that must be named.
pub fn cell<'a>(field: &str, name: &'a str) -> Result<&'a str, Refusal> {
    if name.is_empty() {
        return Err(Refusal::invalid(format!("{field} is required: name a cell")));
    }
    check_cell(name).map_err(|e| Refusal::invalid(format!("{field}: {e}")))?;
    Ok(name)
}

/// A duration; unset is `None`.
pub fn duration(field: &str, duration: Option<&vttime::Duration>) -> Result<Option<Duration>, Refusal> {
    let Some(vttime::Duration { seconds, nanos }) = duration else { return Ok(None) };
    let wrong = || {
        Refusal::invalid(format!(
            "{field}: {seconds} s and {nanos} ns is no duration; give 0 or more of each, less than a second of ns"
        ))
    };
    let whole_s = u64::try_from(*seconds).map_err(|_| wrong())?;
    let nanos = u32::try_from(*nanos).ok().filter(|&n| n < 1_000_000_000).ok_or_else(wrong)?;
    Ok(Some(Duration::new(whole_s, nanos)))
}

/// A tablet type by its number.
pub fn tablet_type(field: &str, number: i32) -> Result<TabletType, Refusal> {
    TabletType::try_from(number).map_err(|_| Refusal::invalid(format!("{field}: {number} is the number of no tablet type")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_alias_is_no_alias_and_a_wrong_one_names_its_field() {
        assert_eq!(optional_alias("new_primary", None), Ok(None));
        let empty = topodata::TabletAlias { cell: String::new(), uid: 0 };
        assert_eq!(optional_alias("new_primary", Some(&empty)), Ok(None));
        let wrong = topodata::TabletAlias { cell: "a/b".to_owned(), uid: 1 };
        assert!(optional_alias("new_primary", Some(&wrong)).unwrap_err().message.starts_with("new_primary: "));
        assert!(alias("tablet_alias", None).unwrap_err().message.contains("tablet_alias is required"));
    }

    #[test]
    fn a_duration_is_never_negative() {
        let given = |seconds, nanos| duration("wait", Some(&vttime::Duration { seconds, nanos }));
        assert_eq!(given(1, 500_000_000), Ok(Some(Duration::from_millis(1500))));
        for (seconds, nanos) in [(-1, 0), (0, -1), (0, 1_000_000_000)] {
            assert!(given(seconds, nanos).unwrap_err().message.starts_with("wait: "));
        }
    }
}
