//! Which electors divide shards among themselves. Pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::sense::Watched;

/// The region of an elector: electors whose region is the same text look after the same tablets and divide the shards.
///
/// It is the set in `--cells-to-watch`, else the CellsAlias that its cell is in, else its cell, else all (safety rules, section 11). What
/// `--clusters-to-watch` leaves out is a part of it as well: a shard must not fall to an elector that does not watch it.
pub(super) fn region(cell: &str, watched: &Watched, aliases: &BTreeMap<String, BTreeSet<String>>) -> String {
    let comma = |names: &BTreeSet<String>| names.iter().map(String::as_str).collect::<Vec<_>>().join(",");
    let alias = || aliases.iter().find(|(_, cells)| cells.contains(cell)).map(|(name, _)| format!("alias {name}"));
    let cells = match (watched.cells.is_empty(), cell) {
        (false, _) => format!("cells {}", comma(&watched.cells)),
        (true, "") => "all cells".to_owned(),
        (true, cell) => alias().unwrap_or_else(|| format!("cell {cell}")),
    };
    let clusters = watched.clusters();
    if clusters.is_empty() { cells } else { format!("{cells}, clusters {}", comma(&clusters)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watched(cells: &[&str], clusters: &[&str]) -> Watched {
        let mut watched = Watched::default();
        watched.cells.extend(cells.iter().map(|cell| (*cell).to_owned()));
        clusters.iter().for_each(|cluster| watched.add_cluster(cluster).unwrap());
        watched
    }

    #[test]
    fn a_region_is_the_watched_cells_else_the_alias_else_the_cell_else_all() {
        let east = BTreeMap::from([("east".to_owned(), BTreeSet::from(["z1".to_owned(), "z2".to_owned()]))]);
        assert_eq!(region("z1", &watched(&[], &[]), &east), "alias east");
        assert_eq!(region("z3", &watched(&[], &[]), &east), "cell z3");
        assert_eq!(region("", &watched(&[], &[]), &east), "all cells");
        assert_eq!(region("z1", &watched(&["z3", "z1"], &[]), &east), "cells z1,z3");
        assert_eq!(region("z9", &watched(&["z1", "z3"], &[]), &east), "cells z1,z3", "in whatever order, wherever it runs");
    }

    #[test]
    fn electors_that_watch_other_keyspaces_divide_nothing_with_each_other() {
        let none = BTreeMap::new();
        let everything = region("z1", &watched(&[], &[]), &none);
        let some = region("z1", &watched(&[], &["customer/-80", "commerce"]), &none);
        assert_ne!(everything, some);
        assert_eq!(some, region("z1", &watched(&[], &["commerce", "customer/-80", "commerce"]), &none));
    }
}
