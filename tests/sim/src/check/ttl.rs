//! Nothing expires before its deadline.
//!
//! Must hold: when a key expires, the clock the expiry was decided by has reached the deadline of the last write or
//! refresh of the key that was acknowledged before; and as much true time has passed, but for what clocks differ.

use std::collections::BTreeMap;

use super::Verdict;

/// What the last acknowledged write or refresh of a key asked for.
#[derive(Clone, Copy, Debug)]
struct Promise {
    /// The index that made it.
    index: u64,
    /// The wall clock's deadline; `None` lives for ever.
    deadline: Option<u64>,
    /// True time when the client asked, and how long it asked for.
    asked: u64,
    lasts: u64,
}

/// See the module documentation.
#[derive(Default)]
pub struct Deadlines {
    promises: BTreeMap<Vec<u8>, Vec<Promise>>,
    /// Requests that may have moved a deadline and were not answered (yet): who asked, and the deadline.
    open: BTreeMap<Vec<u8>, Vec<(u64, u64)>>,
}

impl Deadlines {
    /// A request that would set this deadline is on its way, under a name of its own.
    pub fn ask(&mut self, key: &[u8], name: u64, deadline: u64) {
        self.open.entry(key.to_vec()).or_default().push((name, deadline));
    }

    /// A request was answered: [`Deadlines::promise`] says what came of it, or it certainly did not happen.
    pub fn answered(&mut self, key: &[u8], name: u64) {
        if let Some(open) = self.open.get_mut(key) {
            open.retain(|(other, _)| *other != name);
        }
    }

    /// A write or refresh was acknowledged.
    pub fn promise(&mut self, key: &[u8], index: u64, deadline: Option<u64>, asked: u64, lasts: u64) {
        self.promises.entry(key.to_vec()).or_default().push(Promise { index, deadline, asked, lasts });
    }

    /// A key expired: by which event, at which wall clock, at which true time. Clocks differ by at most `differ`.
    ///
    /// # Errors
    /// When it was promised to live longer.
    pub fn expired(&self, key: &[u8], index: u64, at: u64, now: u64, differ: u64) -> Verdict {
        if self.open.get(key).is_some_and(|open| open.iter().any(|(_, deadline)| *deadline <= at)) {
            // It may have been that one.
            return Ok(());
        }
        let promises = self.promises.get(key).map_or(&[][..], Vec::as_slice);
        let Some(last) = promises.iter().filter(|promise| promise.index < index).max_by_key(|promise| promise.index)
        else {
            return Ok(());
        };
        let key = String::from_utf8_lossy(key);
        match last.deadline {
            None => Err(format!("{key} expired at index {index}, and index {} let it live for ever", last.index)),
            Some(deadline) if at < deadline => Err(format!(
                "{key} expired at index {index} by clock {at}, and index {} promised {deadline}",
                last.index
            )),
            Some(_) if now + differ < last.asked + last.lasts => Err(format!(
                "{key} expired at true time {now}, {} ns after it was asked for {} ns",
                now - last.asked,
                last.lasts
            )),
            Some(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_expiry_passes_and_early_expiry_is_rejected() {
        let mut deadlines = Deadlines::default();
        deadlines.promise(b"/t", 5, Some(1000), 100, 900);
        deadlines.expired(b"/t", 9, 1000, 1000, 0).unwrap();
        deadlines.expired(b"/t", 4, 0, 0, 0).unwrap();
        deadlines.expired(b"/other", 9, 0, 0, 0).unwrap();
        assert!(deadlines.expired(b"/t", 9, 999, 2000, 0).is_err(), "before the deadline");
        assert!(deadlines.expired(b"/t", 9, 1000, 900, 0).is_err(), "a clock that runs ahead alone");
        deadlines.expired(b"/t", 9, 1000, 900, 100).unwrap();
        deadlines.promise(b"/t", 7, Some(3000), 200, 2800);
        assert!(deadlines.expired(b"/t", 9, 1000, 3000, 0).is_err(), "a refresh was forgotten");
        deadlines.ask(b"/t", 1, 500);
        deadlines.expired(b"/t", 9, 1000, 3000, 0).unwrap();
        deadlines.answered(b"/t", 1);
        assert!(deadlines.expired(b"/t", 9, 1000, 3000, 0).is_err(), "that one did not happen");
        deadlines.promise(b"/t", 8, None, 300, 0);
        assert!(deadlines.expired(b"/t", 9, 9000, 9000, 0).is_err(), "it has no deadline any more");
    }
}
