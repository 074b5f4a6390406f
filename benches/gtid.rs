//! How fast GTID sets are read, combined and printed, at the sizes of badly fragmented servers.
//!
//! The bounds to hold: `subtract` below 1 ms, `parse` of 1 MB below 10 ms for whatever a server prints. `parse_1_mb_hostile`,
//! which no server prints, may cost more and shows how much.
#![allow(clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::fmt::Write;

use divan::{Bencher, black_box, counter::BytesCount};
use vtelector::mysql::{GtidSet, ServerUuid};

const INTERVALS: u64 = 10_000;
const MEGABYTE: usize = 1_000_000;

fn main() {
    divan::main();
}

/// How the intervals of a set are spread.
#[derive(Debug, Clone, Copy)]
enum Shape {
    /// All under one server: gaps of a multi-threaded applier.
    OneServer,
    /// A hundred servers, each with four tags.
    Tagged,
    /// Each interval from another server.
    ManyServers,
}

const SHAPES: [Shape; 3] = [Shape::OneServer, Shape::Tagged, Shape::ManyServers];

fn server(n: u64) -> ServerUuid {
    let mut bytes = [0x11; 16];
    bytes[..8].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_be_bytes());
    ServerUuid::from_bytes(bytes)
}

/// The nth of many intervals, in an item of its own; `shift` makes two sets overlap by halves.
fn item(shape: Shape, n: u64, shift: u64) -> String {
    let first = 1_000_000 + n * 10 + shift;
    let last = first + 5;
    match shape {
        Shape::OneServer => format!("{}:{first}-{last}", server(0)),
        Shape::Tagged => format!("{}:tag_{}:{first}-{last}", server(n % 100), n / 100 % 4),
        Shape::ManyServers => format!("{}:{first}-{last}", server(n)),
    }
}

fn set(shape: Shape, shift: u64) -> GtidSet {
    let text = (0..INTERVALS).map(|n| item(shape, n, shift)).collect::<Vec<_>>().join(",");
    let set: GtidSet = text.parse().unwrap();
    assert_eq!(set.count(), u128::from(INTERVALS) * 6, "no two intervals may have merged");
    set
}

fn pair(shape: Shape) -> (GtidSet, GtidSet) {
    (set(shape, 0), set(shape, 3))
}

#[divan::bench(args = SHAPES)]
fn subtract(bencher: Bencher, shape: Shape) {
    let (a, b) = pair(shape);
    bencher.bench(|| black_box(&a).subtract(black_box(&b)));
}

#[divan::bench(args = SHAPES)]
fn union(bencher: Bencher, shape: Shape) {
    let (a, b) = pair(shape);
    bencher.bench(|| black_box(&a).union(black_box(&b)));
}

#[divan::bench(args = SHAPES)]
fn intersect(bencher: Bencher, shape: Shape) {
    let (a, b) = pair(shape);
    bencher.bench(|| black_box(&a).intersect(black_box(&b)));
}

#[divan::bench(args = SHAPES)]
fn contains(bencher: Bencher, shape: Shape) {
    // True, so that nothing is answered before the end.
    let (a, b) = pair(shape);
    let all = a.union(&b);
    bencher.bench(|| black_box(&all).contains(black_box(&b)));
}

#[divan::bench(args = SHAPES)]
fn print(bencher: Bencher, shape: Shape) {
    let a = set(shape, 0);
    bencher.bench(|| black_box(&a).to_string());
}

/// One megabyte as a server prints it.
#[divan::bench(args = SHAPES)]
fn parse_1_mb(bencher: Bencher, shape: Shape) {
    let mut text = String::with_capacity(MEGABYTE + 100);
    for n in 0.. {
        if text.len() >= MEGABYTE {
            break;
        }
        text += &item(shape, n, 0);
        text.push(',');
    }
    // Printing gathers the intervals of one server into one item and sorts, as the server does; then fill up what that saved.
    let mut text = text.parse::<GtidSet>().unwrap().to_string();
    let last_server = text.rfind(',').map_or(0, |comma| comma + 1);
    assert!(text[last_server..].contains(':'));
    let mut n = 1_000_000_000;
    while text.len() < MEGABYTE {
        write!(text, ":{n}-{}", n + 5).unwrap();
        n += 10;
    }
    parse(bencher, &text);
}

/// One megabyte with its servers in no order, one interval each.
#[divan::bench]
fn parse_1_mb_shuffled(bencher: Bencher) {
    let mut text = String::with_capacity(MEGABYTE + 100);
    for n in 0.. {
        if text.len() >= MEGABYTE {
            break;
        }
        text += &item(Shape::ManyServers, n, 0);
        text.push(',');
    }
    parse(bencher, &text);
}

/// One megabyte in the least favourable order: numbers as short as can be, and each interval under another tag than the one before.
#[divan::bench]
fn parse_1_mb_hostile(bencher: Bencher) {
    let mut text = format!("{}", server(0));
    for n in 0.. {
        if text.len() >= MEGABYTE {
            break;
        }
        write!(text, ":{}:{}", ["a", "b", "c"][n % 3], n % 10 + 1).unwrap();
    }
    parse(bencher, &text);
}

fn parse(bencher: Bencher, text: &str) {
    bencher.counter(BytesCount::of_str(text)).bench(|| black_box(text).parse::<GtidSet>().unwrap());
}

/// What a healthy shard has.
#[divan::bench]
fn parse_typical(bencher: Bencher) {
    let text = format!("{}:1-123456789,{}:1-77,{}:1-5:7", server(1), server(2), server(3));
    parse(bencher, &text);
}
