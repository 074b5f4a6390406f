//! How many connections there may be: in all, and of one client address, so that none of them takes all.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
};

use crate::serve::door::party;

/// The connections of one face.
pub struct Crowd {
    total_max: usize,
    of_address_max: usize,
    counts: Mutex<Counts>,
}

#[derive(Default)]
struct Counts {
    total: usize,
    of_address: BTreeMap<IpAddr, usize>,
}

/// Why there is no place.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Full {
    /// There are as many connections as there may be.
    Total,
    /// That address has as many as one may have.
    OfAddress,
}

/// A place for one connection, free again when dropped.
pub struct Place {
    crowd: Arc<Crowd>,
    address: IpAddr,
}

impl Crowd {
    /// At most so many.
    pub fn new(total_max: usize, of_address_max: usize) -> Arc<Self> {
        Arc::new(Self { total_max, of_address_max, counts: Mutex::default() })
    }

    /// Takes a place.
    pub fn enter(self: &Arc<Self>, address: IpAddr) -> Result<Place, Full> {
        let address = party(address);
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        if counts.total >= self.total_max {
            return Err(Full::Total);
        }
        let own = counts.of_address.entry(address).or_default();
        if *own >= self.of_address_max {
            return Err(Full::OfAddress);
        }
        *own += 1;
        counts.total += 1;
        Ok(Place { crowd: self.clone(), address })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut counts = self.crowd.counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.total -= 1;
        if let Some(own) = counts.of_address.get_mut(&self.address) {
            *own -= 1;
            if *own == 0 {
                counts.of_address.remove(&self.address);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_address_does_not_take_every_place() {
        let crowd = Crowd::new(3, 2);
        let [a, b] = ["10.0.0.1", "10.0.0.2"].map(|address| address.parse().unwrap());
        let first = crowd.enter(a).unwrap();
        let _second = crowd.enter(a).unwrap();
        assert_eq!(crowd.enter(a).err(), Some(Full::OfAddress));
        let third = crowd.enter(b).unwrap();
        assert_eq!(crowd.enter(b).err(), Some(Full::Total));
        drop((first, third));
        assert!(crowd.enter(a).is_ok());
        assert_eq!(crowd.counts.lock().unwrap().of_address.len(), 1, "who is gone is forgotten");
    }
}
