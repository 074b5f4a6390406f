//! Which shards an elector looks after. Pure.

use std::collections::BTreeSet;

use crate::topo::ShardId;

/// The shards that this elector looks after, by rendezvous hashing among the electors of its region: a shard belongs to the elector
/// whose weight for it is the highest, so a newcomer takes an equal part from everybody, and what the dead leave is spread evenly.
///
/// It saves work and grants nothing: only the shard lock does (safety rules, section 11). Two electors that own one shard for a
/// moment do no harm; a shard that nobody owns would.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ownership {
    division: Division,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Division {
    /// There is nothing to divide, or nobody to divide it with.
    Everything,
    /// Who the others are is not known yet.
    Nothing,
    /// Among these; each set contains `me`. What belongs to `me` under either of them is owned.
    Shared {
        me: String,
        members: BTreeSet<String>,
        /// Those who have been there for a while: what a newcomer takes over is still looked after until it has looked itself.
        settled: BTreeSet<String>,
    },
}

impl Ownership {
    /// Every shard: for an elector without peers.
    pub fn everything() -> Self {
        Self { division: Division::Everything }
    }

    /// No shard: for the moment before the peers are known.
    pub fn nothing() -> Self {
        Self { division: Division::Nothing }
    }

    /// What falls to `me` among `members`, and what fell to it among those of them that are `settled`.
    pub fn shared(me: &str, members: impl IntoIterator<Item = String>, settled: impl IntoIterator<Item = String>) -> Self {
        let with_me = |others: BTreeSet<String>| others.into_iter().chain([me.to_owned()]).collect();
        let (members, settled) = (with_me(members.into_iter().collect()), with_me(settled.into_iter().collect()));
        Self { division: Division::Shared { me: me.to_owned(), members, settled } }
    }

    /// Whether this elector looks after the shard.
    pub fn owns(&self, shard: &ShardId) -> bool {
        match &self.division {
            Division::Everything => true,
            Division::Nothing => false,
            Division::Shared { me, members, settled } => {
                let mine = |members: &BTreeSet<String>| heaviest(members, shard).is_some_and(|owner| owner == me);
                mine(members) || (settled != members && mine(settled))
            }
        }
    }

    /// Who looks after the shard; `None` when that is not divided.
    pub fn owner(&self, shard: &ShardId) -> Option<&str> {
        match &self.division {
            Division::Everything | Division::Nothing => None,
            Division::Shared { members, .. } => heaviest(members, shard),
        }
    }

    /// The electors that divide the shards, this one included; empty when nothing is divided.
    pub fn members(&self) -> impl Iterator<Item = &str> {
        let members = match &self.division {
            Division::Everything | Division::Nothing => None,
            Division::Shared { members, .. } => Some(members),
        };
        members.into_iter().flatten().map(String::as_str)
    }
}

fn heaviest<'a>(members: &'a BTreeSet<String>, shard: &ShardId) -> Option<&'a str> {
    // Equal weights are settled by name, so that everybody settles them alike.
    members.iter().max_by_key(|member| (weight(member, shard), member.as_str())).map(String::as_str)
}

/// The same number in every release and on every machine, unlike the standard library's hash: electors of two releases divide the
/// shards of one region while they are replaced one by one.
fn weight(member: &str, shard: &ShardId) -> u64 {
    // FNV-1a; 0xff occurs in no UTF-8 text and parts the names.
    let bytes = member.bytes().chain([0xff]).chain(shard.keyspace.bytes()).chain([0xff]).chain(shard.shard.bytes());
    let hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    // Its last bytes hardly reach its upper bits, which decide here: mixed as splitmix64 ends.
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn shards(count: usize) -> Vec<ShardId> {
        (0..count)
            .map(|n| ShardId::new(&format!("ks{}", n / 64), &format!("{:02x}-{:02x}", n % 64 * 4, n % 64 * 4 + 4)).unwrap())
            .collect()
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    fn among(me: &str, members: &[&str]) -> Ownership {
        Ownership::shared(me, names(members), names(members))
    }

    fn owners(members: &[&str], shards: &[ShardId]) -> BTreeMap<ShardId, String> {
        let ownership = among(members[0], members);
        shards.iter().map(|shard| (shard.clone(), ownership.owner(shard).unwrap().to_owned())).collect()
    }

    #[test]
    fn each_shard_has_exactly_one_owner_and_all_agree_who() {
        let electors = ["a:15999", "b:15999", "c:15999", "d:15999"];
        let views: Vec<Ownership> = electors.iter().map(|me| among(me, &electors)).collect();
        for shard in shards(1000) {
            let owners: Vec<&str> =
                electors.iter().zip(&views).filter(|(_, view)| view.owns(&shard)).map(|(me, _)| *me).collect();
            assert_eq!(owners.len(), 1, "{shard}: {owners:?}");
            assert!(views.iter().all(|view| view.owner(&shard) == Some(owners[0])));
        }
    }

    #[test]
    fn names_that_differ_in_one_letter_share_evenly() {
        let shards = shards(3333);
        for electors in [2, 3, 5, 8] {
            let names: Vec<String> = (0..electors).map(|n| format!("elector-{n}.electors:15999")).collect();
            let names: Vec<&str> = names.iter().map(String::as_str).collect();
            let mut parts: BTreeMap<String, usize> = BTreeMap::new();
            for owner in owners(&names, &shards).into_values() {
                *parts.entry(owner).or_default() += 1;
            }
            let even = shards.len() as f64 / electors as f64;
            for (name, part) in parts {
                assert!((part as f64 / even - 1.0).abs() < 0.15, "{name} of {electors} has {part}, even would be {even:.0}");
            }
        }
    }

    #[test]
    fn who_dies_moves_only_its_own_shards_and_who_joins_takes_only_its_part() {
        let shards = shards(3333);
        let before = owners(&["a", "b", "c", "d"], &shards);
        let after = owners(&["a", "b", "d"], &shards);
        let mut heirs: BTreeMap<&str, usize> = BTreeMap::new();
        for shard in &shards {
            match before[shard].as_str() {
                "c" => *heirs.entry(after[shard].as_str()).or_default() += 1,
                other => assert_eq!(after[shard], other, "{shard} moved though its owner lives"),
            }
        }
        let (fewest, most) = (heirs.values().min().unwrap(), heirs.values().max().unwrap());
        assert!(heirs.len() == 3 && most - fewest < fewest / 3, "the dead one's shards are spread: {heirs:?}");
    }

    #[test]
    fn a_shard_keeps_its_owner_until_the_newcomer_has_settled() {
        let before = among("a", &["a", "b"]);
        let joining = Ownership::shared("a", names(&["a", "b", "c"]), names(&["a", "b"]));
        let settled = among("a", &["a", "b", "c"]);
        let mut handed_over = 0;
        for shard in shards(1000) {
            assert_eq!(joining.owns(&shard), before.owns(&shard));
            handed_over += usize::from(before.owns(&shard) && !settled.owns(&shard));
            assert!(!settled.owns(&shard) || before.owns(&shard), "nobody but the newcomer gains from its coming");
        }
        assert!(handed_over > 100);
    }

    #[test]
    fn a_shard_of_a_dead_elector_falls_at_once_to_its_heir_also_while_another_joins() {
        let electors = ["a", "b", "c", "new"];
        for shard in shards(500) {
            // c has died, new has just come.
            let owned = ["a", "b", "new"]
                .iter()
                .filter(|me| Ownership::shared(me, names(&["a", "b", "new"]), names(&["a", "b"])).owns(&shard));
            assert!(owned.count() >= 1, "{shard} among {electors:?}");
        }
    }

    #[test]
    fn alone_or_unknown_is_all_or_nothing() {
        let shard = ShardId::new("commerce", "0").unwrap();
        assert!(Ownership::everything().owns(&shard) && !Ownership::nothing().owns(&shard));
        assert!(among("a", &[]).owns(&shard) && among("a", &[]).members().eq(["a"]));
        assert_eq!((Ownership::everything().owner(&shard), Ownership::nothing().members().count()), (None, 0));
    }

    /// The division of a running region must not change with a release.
    #[test]
    fn weights_never_change() {
        let shard = ShardId::new("commerce", "-80").unwrap();
        assert_eq!([weight("a:15999", &shard), weight("b:15999", &shard)], [10_454_965_859_450_753_366, 918_704_691_327_213_864]);
    }
}
