//! How many requests one client address may send: a bucket that fills steadily, and is as large as two seconds of it.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv6Addr},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Addresses that have a bucket of their own; whoever comes beyond them shares one.
const ADDRESSES_MAX: usize = 4096;
/// A bucket that was not touched for so long is full again, and forgotten.
const FULL_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// The clients of one face.
pub struct Rate {
    per_second: f64,
    buckets: Mutex<Buckets>,
}

struct Buckets {
    own: BTreeMap<IpAddr, Bucket>,
    shared: Bucket,
    swept: Instant,
}

#[derive(Clone, Copy)]
struct Bucket {
    left: f64,
    at: Instant,
}

impl Rate {
    /// At most so many requests a second from one address; 0 = no limit.
    pub fn new(per_second: u32) -> Self {
        let (per_second, now) = (f64::from(per_second), Instant::now());
        let shared = Bucket { left: per_second * 2.0, at: now };
        Self { per_second, buckets: Mutex::new(Buckets { own: BTreeMap::new(), shared, swept: now }) }
    }

    /// Whether another request may be answered now.
    pub fn allows(&self, address: IpAddr) -> bool {
        if self.per_second == 0.0 {
            return true;
        }
        let (now, address) = (Instant::now(), party(address));
        let mut buckets = self.buckets.lock().unwrap_or_else(PoisonError::into_inner);
        let Buckets { own, shared, swept } = &mut *buckets;
        let is_full = own.len() >= ADDRESSES_MAX && !own.contains_key(&address);
        if is_full && now.duration_since(*swept) >= FULL_AGAIN_AFTER {
            own.retain(|_, bucket| now.duration_since(bucket.at) < FULL_AGAIN_AFTER);
            *swept = now;
        }
        let fresh = Bucket { left: self.per_second * 2.0, at: now };
        let bucket = match own.len() >= ADDRESSES_MAX && !own.contains_key(&address) {
            true => shared,
            false => own.entry(address).or_insert(fresh),
        };
        bucket.left = (bucket.left + now.duration_since(bucket.at).as_secs_f64() * self.per_second).min(self.per_second * 2.0);
        bucket.at = now;
        let allowed = bucket.left >= 1.0;
        if allowed {
            bucket.left -= 1.0;
        }
        allowed
    }
}

/// Whoever has an IPv6 address has a whole network of them.
pub fn party(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX))),
        v4 => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v4(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }

    #[tokio::test(start_paused = true)]
    async fn an_address_has_two_seconds_worth_at_once_and_its_rate_after_that() {
        let rate = Rate::new(10);
        assert_eq!((0..100).filter(|_| rate.allows(v4(1))).count(), 20);
        assert!(rate.allows(v4(2)), "another address");
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!((0..100).filter(|_| rate.allows(v4(1))).count(), 10);
        let unlimited = Rate::new(0);
        assert!((0..10_000).all(|_| unlimited.allows(v4(1))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_network_of_addresses_is_one_client_and_the_table_is_bounded() {
        let rate = Rate::new(10);
        let v6 = |low: u64| IpAddr::V6(Ipv6Addr::from_bits(0x2001_0db8 << 96 | u128::from(low)));
        assert_eq!((0..100).filter(|low| rate.allows(v6(*low))).count(), 20);
        let allowed = (0..100_000).filter(|number| rate.allows(v4(*number))).count();
        assert!(allowed <= ADDRESSES_MAX + 20, "{allowed}");
        assert!(rate.buckets.lock().unwrap().own.len() <= ADDRESSES_MAX);
        tokio::time::advance(FULL_AGAIN_AFTER).await;
        assert!(rate.allows(v4(200_000)), "old ones make room");
    }
}
