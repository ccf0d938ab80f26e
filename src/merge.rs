//! The merge across lanes: pure. Queues are first in, first out; across them the earliest goes first.
//!
//! A queue's times never step back (a later record of a lane counts at least as late as the one before
//! it), so per-lane order always wins, and one comparison with the *horizon* decides what is due. The
//! caller computes the horizon: the largest time that any rule makes due takes along everything that was
//! seen with an earlier one.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A queue that a merge takes from.
pub trait Queue {
    /// Effective time of the first entry (ns), None = empty.
    fn first(&self) -> Option<i64>;
}

/// Which rules make entries of one queue due; see [`horizon`].
#[derive(Clone, Copy, Debug, Default)]
pub struct Due {
    /// Latest effective time among entries that were seen at least a grace ago.
    pub seen: Option<i64>,
    /// Latest effective time of all, if the whole queue is due (half full, flush, dead, the end).
    pub all: Option<i64>,
}

/// The horizon: everything up to it goes. `now - grace` by default; later where something must go.
/// `hold`: a ring whose spill was not parsed to its end holds the others back to this time.
pub fn horizon(now: i64, grace: i64, due: impl Iterator<Item = Due>, hold: Option<i64>) -> i64 {
    let mut h = now.saturating_sub(grace);
    for d in due {
        h = h.max(d.seen.unwrap_or(i64::MIN)).max(d.all.unwrap_or(i64::MIN));
    }
    hold.map_or(h, |t| h.min(t))
}

/// Takes what lies at or before `horizon`, in order. `take` removes the first entry of the queue it is given
/// (the one with that index), and may go on with those behind it that are not later than the time it is given;
/// it answers whether to go on.
pub fn merge<Q: Queue>(queues: &mut [Q], horizon: i64, mut take: impl FnMut(&mut Q, usize, i64) -> bool) {
    let mut heap: BinaryHeap<Reverse<(i64, usize)>> = queues
        .iter()
        .enumerate()
        .filter_map(|(i, q)| q.first().filter(|t| *t <= horizon).map(|t| Reverse((t, i))))
        .collect();
    while let Some(Reverse((_, i))) = heap.pop() {
        // As long as nobody is earlier: runs of one queue cost no heap.
        let until = match heap.peek() {
            None => horizon,
            Some(&Reverse((t, j))) if i < j => t,
            Some(&Reverse((t, _))) => t.saturating_sub(1),
        };
        if !take(&mut queues[i], i, until) {
            return;
        }
        if let Some(t) = queues[i].first().filter(|t| *t <= horizon) {
            heap.push(Reverse((t, i)));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    impl Queue for VecDeque<i64> {
        fn first(&self) -> Option<i64> {
            self.front().copied()
        }
    }

    proptest! {
        #[test]
        fn takes_exactly_what_is_due_and_in_order(
            steps in prop::collection::vec(prop::collection::vec(0i64..20, 0..30), 1..6),
            horizon in -1i64..400,
        ) {
            let mut queues: Vec<VecDeque<i64>> = steps.iter().map(|q| {
                q.iter().scan(0, |t, d| { *t += d; Some(*t) }).collect()
            }).collect();
            let mut expected: Vec<(i64, usize)> = queues.iter().enumerate()
                .flat_map(|(i, q)| q.iter().map(move |t| (*t, i))).filter(|x| x.0 <= horizon).collect();
            expected.sort(); // stable by queue: entries of one queue are in order already
            let left: usize = queues.iter().map(VecDeque::len).sum::<usize>() - expected.len();
            let (mut singly, mut got) = (Vec::new(), Vec::new());
            merge(&mut queues.clone(), horizon, |q, i, _| { singly.push((q.pop_front().unwrap(), i)); true });
            merge(&mut queues, horizon, |q, i, until| {
                while let Some(t) = q.pop_front_if(|t| *t <= until) {
                    got.push((t, i));
                }
                true
            });
            prop_assert_eq!(&singly, &expected);
            prop_assert_eq!(got, expected);
            prop_assert_eq!(queues.iter().map(VecDeque::len).sum::<usize>(), left);
        }
    }

    #[test]
    fn the_horizon_is_the_latest_rule_unless_held() {
        let d = |seen, all| Due { seen, all };
        assert_eq!(horizon(100, 10, [].into_iter(), None), 90);
        assert_eq!(horizon(100, 10, [d(Some(95), None), d(None, None)].into_iter(), None), 95);
        assert_eq!(horizon(100, 10, [d(Some(95), Some(200))].into_iter(), None), 200);
        assert_eq!(horizon(100, 10, [d(Some(95), Some(200))].into_iter(), Some(50)), 50);
    }

    #[test]
    fn stops_when_told() {
        let mut q = [VecDeque::from([1, 2, 3])];
        let mut n = 0;
        merge(&mut q, 10, |q, _, _| {
            q.pop_front();
            n += 1;
            n < 2
        });
        assert_eq!(q[0], [3]);
    }
}
