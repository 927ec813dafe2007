//! How many requests run at once while the processors are busy: as many as leave each of them its turn in time.

use std::time::Duration;

/// So many may run however busy the processors are. Fewer would not fill them: most of what runs waits for a provider or the log.
const LEAST: usize = 64;

/// What is allowed shrinks to nine tenths of what runs when whoever is ready has waited too long for a processor twice in a row, and
/// again once no more run than that; it grows by a twentieth at every look at which they have not.
#[derive(Debug)]
pub(super) struct Load {
    most: usize,
    now: usize,
    /// Looks, one after another, at which it was too long.
    too_long: u32,
    /// How long whoever is ready may wait for a processor; zero: however long.
    max_lag: Duration,
}

impl Load {
    pub(super) fn new(most: usize, max_lag: Duration) -> Self {
        Self { most, now: most, too_long: 0, max_lag }
    }

    /// How many may run.
    pub(super) fn allowed(&self) -> usize {
        self.now
    }

    /// `most`, in proportion to what is allowed, but not below two.
    pub(super) fn in_proportion(&self, most: usize) -> usize {
        most.min((most * self.now / self.most.max(1)).max(2))
    }

    /// Somebody who was ready waited for so long, while so many ran.
    pub(super) fn feel(&mut self, lag: Duration, running: usize) {
        if self.max_lag.is_zero() {
            return;
        }
        if lag <= self.max_lag {
            self.too_long = 0;
            self.now = (self.now + self.now / 20 + 1).min(self.most);
            return;
        }
        self.too_long = self.too_long.saturating_add(1);
        // Once is no sign, and while more run than are allowed, it is not yet known what that will do.
        if self.too_long > 1 && running <= self.now {
            self.now = (running * 9 / 10).max(LEAST.min(self.most));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BUSY: Duration = Duration::from_millis(11);
    const IDLE: Duration = Duration::from_millis(1);

    #[test]
    fn who_is_busy_lets_fewer_run_than_do_and_who_is_no_longer_all_again() {
        let mut load = Load::new(1_000, Duration::from_millis(10));
        load.feel(BUSY, 400);
        assert_eq!(load.allowed(), 1_000, "once is no sign");
        load.feel(BUSY, 400);
        assert_eq!((load.allowed(), load.in_proportion(15)), (360, 5));
        load.feel(BUSY, 390);
        assert_eq!(load.allowed(), 360, "those that run have not ended");
        load.feel(BUSY, 360);
        assert_eq!(load.allowed(), 324);
        load.feel(IDLE, 324);
        assert_eq!(load.allowed(), 341);
        for _ in 0..100 {
            load.feel(BUSY, load.allowed());
        }
        assert_eq!((load.allowed(), load.in_proportion(15)), (LEAST, 2));
        for _ in 0..100 {
            load.feel(IDLE, 0);
        }
        assert_eq!((load.allowed(), load.in_proportion(15)), (1_000, 15));
    }

    #[test]
    fn few_places_and_no_bound_stay_as_they_are() {
        let mut few = Load::new(8, Duration::from_millis(10));
        few.feel(BUSY, 8);
        few.feel(BUSY, 8);
        assert_eq!((few.allowed(), few.in_proportion(0)), (8, 0));
        let mut unbounded = Load::new(1_000, Duration::ZERO);
        unbounded.feel(BUSY, 1_000);
        unbounded.feel(BUSY, 1_000);
        assert_eq!(unbounded.allowed(), 1_000);
    }
}
