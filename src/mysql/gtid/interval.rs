//! Sorted, disjoint, never touching runs of sequence numbers: the algebra below one GTID source.

/// The highest sequence number that any party writes; one more would not fit MySQL's signed counter.
pub(super) const MAX_SEQUENCE: u64 = i64::MAX as u64;

/// The sequence numbers from `first` to `last`, both included; `1 <= first <= last <= MAX_SEQUENCE`, so `last + 1` cannot overflow.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Interval {
    pub(super) first: u64,
    pub(super) last: u64,
}

impl Interval {
    pub(super) fn len(self) -> u64 {
        self.last - self.first + 1
    }
}

/// Brings intervals of any order into the canonical form that every other function here expects and returns.
pub(super) fn canonical(mut intervals: Vec<Interval>) -> Vec<Interval> {
    // The stable sort finds runs that are sorted already, so joining two canonical lists costs one linear merge.
    intervals.sort();
    intervals.dedup_by(|next, kept| {
        let touches = next.first <= kept.last + 1;
        if touches {
            kept.last = kept.last.max(next.last);
        }
        touches
    });
    intervals
}

pub(super) fn union(left: &[Interval], right: &[Interval]) -> Vec<Interval> {
    canonical([left, right].concat())
}

pub(super) fn subtract(left: &[Interval], right: &[Interval]) -> Vec<Interval> {
    let mut rest = Vec::with_capacity(left.len());
    let mut cuts = right.iter().peekable();
    for piece in left {
        let mut first = piece.first;
        while let Some(cut) = cuts.next_if(|cut| cut.last <= piece.last) {
            if first < cut.first {
                rest.push(Interval { first, last: cut.first - 1 });
            }
            first = first.max(cut.last + 1);
        }
        // What is left to cut reaches beyond this piece and may take from the next one too, so it stays in the queue.
        let last = cuts.peek().map_or(piece.last, |cut| piece.last.min(cut.first - 1));
        if first <= last {
            rest.push(Interval { first, last });
        }
    }
    rest
}

pub(super) fn intersect(left: &[Interval], right: &[Interval]) -> Vec<Interval> {
    let mut common = Vec::new();
    let (mut i, mut j) = (0, 0);
    while let (Some(a), Some(b)) = (left.get(i), right.get(j)) {
        let (first, last) = (a.first.max(b.first), a.last.min(b.last));
        if first <= last {
            common.push(Interval { first, last });
        }
        if a.last < b.last { i += 1 } else { j += 1 }
    }
    common
}

/// Whether `held` has every sequence number of `wanted`.
pub(super) fn contains(held: &[Interval], wanted: &[Interval]) -> bool {
    wanted.iter().all(|want| {
        let reaching = held.partition_point(|have| have.last < want.first);
        held.get(reaching).is_some_and(|have| have.first <= want.first && want.last <= have.last)
    })
}
