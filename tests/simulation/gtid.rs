//! Positions as numbers: every server's own transactions are numbered without gaps, and nobody gets them in another order.

use vtelector::mysql::Position;

/// Servers at most.
pub const SERVERS_MAX: usize = 6;

/// How many of each server's own transactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pos(pub [u64; SERVERS_MAX]);

impl Pos {
    pub fn join(&mut self, other: &Self) {
        for (own, other) in self.0.iter_mut().zip(other.0) {
            *own = (*own).max(other);
        }
    }

    pub fn contains(&self, other: &Self) -> bool {
        self.0.iter().zip(other.0).all(|(own, other)| *own >= other)
    }

    pub fn encode(&self) -> String {
        let sets = self.0.iter().enumerate().filter(|(_, last)| **last > 0);
        let sets = sets
            .map(|(server, last)| if *last == 1 { format!("{}:1", uuid(server)) } else { format!("{}:1-{last}", uuid(server)) });
        format!("MySQL56/{}", sets.collect::<Vec<_>>().join(","))
    }

    pub fn decode(text: &str) -> Self {
        let mut this = Self::default();
        if let Some(set) = Position::decode(text).unwrap().gtid() {
            for (server, last) in this.0.iter_mut().enumerate() {
                *last = set.last_sequence(uuid(server).parse().unwrap()).unwrap_or(0);
            }
        }
        this
    }
}

pub fn uuid(server: usize) -> String {
    format!("{:08x}-0000-4000-8000-{:012x}", server + 1, server + 1)
}

#[test]
fn a_position_comes_back_as_it_was_sent() {
    let mut some = Pos::default();
    some.0[0] = 17;
    some.0[3] = 1;
    assert_eq!(Pos::decode(&some.encode()), some);
    assert_eq!(Pos::decode(""), Pos::default());
}
