//! Where Vitess keeps what: the keys of records and locks below a root.

use super::{NameError, ShardId, TabletAlias, check_cell, check_name};

/// The prefix of a global or cell topology inside its etcd. Kept clean: a leading slash stays only where it was given.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Root(String);

impl Root {
    /// Takes a root as it was written by a person; doubled and trailing slashes vanish.
    pub fn new(root: &str) -> Self {
        Self(clean(root))
    }

    /// The full key of a path below this root. An empty path is the root itself.
    pub fn key(&self, path: &str) -> String {
        if self.0.is_empty() { clean(path.trim_start_matches('/')) } else { clean(&format!("{}/{path}", self.0)) }
    }

    /// The prefix of everything below a folder. It ends in a slash, so that a sibling with a longer name stays out.
    pub fn folder(&self, path: &str) -> String {
        let key = self.key(path);
        if key.is_empty() || key.ends_with('/') { key } else { key + "/" }
    }
}

/// Joins path elements as Vitess does (facts: the key is the cleaned path; no slash is added in front).
fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    let slash = if path.starts_with('/') { "/" } else { "" };
    format!("{slash}{}", parts.join("/"))
}

/// `cells/CELL/CellInfo`, in the global root.
pub(crate) fn cell_info(cell: &str) -> Result<String, NameError> {
    check_cell(cell)?;
    Ok(format!("cells/{cell}/CellInfo"))
}

/// `keyspaces/KEYSPACE`, in the global root or a cell's.
pub(crate) fn keyspace_folder(keyspace: &str) -> Result<String, NameError> {
    check_name("keyspace name", keyspace)?;
    Ok(format!("keyspaces/{keyspace}"))
}

/// `keyspaces/KEYSPACE/shards/SHARD`. The fields of an id are public, so the names are checked here once more.
pub(crate) fn shard_folder(shard: &ShardId) -> Result<String, NameError> {
    check_name("shard name", &shard.shard)?;
    Ok(format!("{}/shards/{}", keyspace_folder(&shard.keyspace)?, shard.shard))
}

/// `tablets/ALIAS/Tablet`, in the root of the alias's cell.
pub(crate) fn tablet(alias: &TabletAlias) -> Result<String, NameError> {
    check_cell(&alias.cell)?;
    Ok(format!("tablets/{alias}/Tablet"))
}

/// The distinct first path elements of keys below `folder` (which ends in a slash or is empty), in order.
pub(crate) fn children<'a>(folder: &str, keys: impl Iterator<Item = &'a str>) -> Vec<String> {
    let mut names: Vec<String> = Vec::new();
    for key in keys {
        let Some(rest) = key.strip_prefix(folder) else { continue };
        let name = rest.split('/').next().unwrap_or_default();
        if !name.is_empty() && names.last().is_none_or(|last| last != name) {
            names.push(name.to_owned());
        }
    }
    // Keys sort by bytes, in which `a-b/x` stands between `a` and `a/x`: equal names need not be neighbours.
    names.sort();
    names.dedup();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_root_is_joined_as_vitess_joins_it() {
        for (root, path, key) in [
            ("/vitess/global", "keyspaces/commerce/Keyspace", "/vitess/global/keyspaces/commerce/Keyspace"),
            ("vitess/global/", "keyspaces", "vitess/global/keyspaces"),
            ("/", "keyspaces", "/keyspaces"),
            ("", "tablets/zone1-0000000100/Tablet", "tablets/zone1-0000000100/Tablet"),
            ("//vitess//global//", "/cells/", "/vitess/global/cells"),
            ("/vitess/./zone1/../zone2", "tablets", "/vitess/zone2/tablets"),
        ] {
            assert_eq!(Root::new(root).key(path), key, "{root:?} + {path:?}");
        }
    }

    #[test]
    fn a_folder_ends_in_one_slash_and_keeps_siblings_out() {
        assert_eq!(Root::new("/vitess/zone1").folder("tablets"), "/vitess/zone1/tablets/");
        assert_eq!(Root::new("").folder("tablets"), "tablets/");
        assert_eq!(Root::new("").folder(""), "");
        assert_eq!(Root::new("/").folder(""), "/");
    }

    #[test]
    fn children_are_distinct_even_where_byte_order_parts_them() {
        let keys = ["r/a-b/x", "r/a/x", "r/a/y", "r/b", "other/c"];
        assert_eq!(children("r/", keys.into_iter()), ["a", "a-b", "b"]);
    }

    #[test]
    fn a_name_that_would_leave_its_folder_is_refused() {
        let shard = ShardId { keyspace: "commerce".into(), shard: "../0".into() };
        assert!(shard_folder(&shard).is_err());
        assert!(cell_info("..").is_err() && keyspace_folder("a/b").is_err());
    }
}
