//! How many places each subject may hold at once: who only waits would otherwise take those of all
//! others.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// The places of all subjects. There are no more names in it than places are held.
#[derive(Debug, Clone)]
pub(crate) struct Shares {
    each: usize,
    held: Arc<Mutex<HashMap<String, usize>>>,
}

/// One place of a subject; free again when dropped.
#[derive(Debug)]
pub(crate) struct Share {
    of: Shares,
    subject: String,
}

impl Shares {
    pub fn new(each: usize) -> Self {
        Self { each, held: Arc::default() }
    }

    /// `None` where the subject holds all that it may.
    pub fn take(&self, subject: &str) -> Option<Share> {
        let mut held = self.lock();
        match held.get_mut(subject) {
            Some(places) if *places >= self.each => return None,
            Some(places) => *places += 1,
            None => {
                held.insert(subject.to_owned(), 1);
            }
        }
        Some(Share { of: self.clone(), subject: subject.to_owned() })
    }

    // Nothing awaits while the lock is held, and no code under it panics half-way.
    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut held = self.of.lock();
        if let Some(places) = held.get_mut(&self.subject) {
            *places -= 1;
            if *places == 0 {
                held.remove(&self.subject);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_subject_has_its_places_and_gives_them_back() {
        let shares = Shares::new(2);
        let (first, second) = (shares.take("ann"), shares.take("ann"));
        assert!(first.is_some() && second.is_some() && shares.take("ann").is_none());
        let other = shares.take("bob");
        assert!(other.is_some(), "others have their own");
        drop(first);
        let again = shares.take("ann");
        assert!(again.is_some() && shares.take("ann").is_none());
        drop((second, again, other));
        assert!(shares.lock().is_empty(), "nobody is remembered");
    }
}
