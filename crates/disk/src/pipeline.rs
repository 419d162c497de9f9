//! Ordered parallel work: tasks start in order, are worked on by many threads, and take their turn in order.
//!
//! This is how one deterministic file comes out of any number of threads: what depends on order (where bytes go,
//! which hash comes next) happens in `turn`, one task at a time and in sequence; everything else runs beside it.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, Result};

/// The four steps of an ordered job. Threads call them at once except where `&mut` says otherwise.
pub struct Steps<Next, Work, Turn, After> {
    /// Makes the next task, `None` at the end. Called in order.
    pub next: Next,
    /// The parallel part.
    pub work: Work,
    /// The ordered part: called once per task, in the order of the tasks.
    pub turn: Turn,
    /// What is left to do once the order is settled: one task at a time, while other threads go on with the other
    /// steps. Storing in one file belongs here: file systems let one writer in at a time anyway, and threads that
    /// wait for it inside the kernel burn their core.
    pub after: After,
}

/// Runs `steps` on `threads` threads (at least one) with at most `window` tasks between `next` and the end of
/// `after`, which bounds the memory in use.
///
/// # Errors
/// The error of the earliest task that failed; later tasks are abandoned.
pub fn run_ordered<T, R, P>(
    threads: usize,
    window: usize,
    steps: Steps<
        impl FnMut() -> Result<Option<T>> + Send,
        impl Fn(T) -> Result<R> + Sync,
        impl FnMut(R) -> Result<P> + Send,
        impl Fn(P) -> Result<()> + Sync,
    >,
) -> Result<()>
where
    T: Send,
    R: Send,
    P: Send,
{
    let threads = threads.max(1);
    let Steps { next, work, turn, after } = steps;
    let job = Job {
        window: window.max(threads),
        state: Mutex::new(State::default()),
        changed: Condvar::new(),
        next: Mutex::new(next),
        turn: Mutex::new(turn),
    };
    if threads == 1 {
        job.worker(&work, &after);
    } else {
        std::thread::scope(|scope| {
            for _ in 0..threads {
                scope.spawn(|| job.worker(&work, &after));
            }
        });
    }
    let state = job.state.into_inner().unwrap_or_else(PoisonError::into_inner);
    match state.failed {
        Some((_, error)) => Err(error),
        None => Ok(()),
    }
}

struct Job<R, P, N, U> {
    window: usize,
    state: Mutex<State<R, P>>,
    changed: Condvar,
    next: Mutex<N>,
    turn: Mutex<U>,
}

struct State<R, P> {
    /// Index of the next task to make.
    made: u64,
    /// A thread is inside `next`.
    making: bool,
    ended: bool,
    /// Worked on, waiting for their turn.
    ready: BTreeMap<u64, R>,
    /// Index of the task whose turn it is.
    served: u64,
    /// A thread is inside `turn`.
    serving: bool,
    /// Had their turn, waiting for `after`.
    placed: VecDeque<(u64, P)>,
    /// A thread is inside `after`.
    closing: bool,
    in_flight: usize,
    failed: Option<(u64, Error)>,
    /// A thread panicked: what it had in hand will never be done.
    broken: bool,
}

impl<R, P> Default for State<R, P> {
    fn default() -> Self {
        Self {
            made: 0,
            making: false,
            ended: false,
            ready: BTreeMap::new(),
            served: 0,
            serving: false,
            placed: VecDeque::new(),
            closing: false,
            in_flight: 0,
            failed: None,
            broken: false,
        }
    }
}

/// Sends the other threads home when its own thread panics; they would wait for its task for ever. The scope then
/// carries the panic on.
struct Alarm<'a, R, P> {
    state: &'a Mutex<State<R, P>>,
    changed: &'a Condvar,
}

impl<R, P> Drop for Alarm<'_, R, P> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            lock(self.state).broken = true;
            self.changed.notify_all();
        }
    }
}

impl<R, P> State<R, P> {
    /// A task is done with, one way or the other.
    fn leave(&mut self, index: u64, done: Result<()>) {
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Err(error) = done {
            self.fail(index, error);
        }
    }

    fn fail(&mut self, index: u64, error: Error) {
        if self.failed.as_ref().is_none_or(|(earliest, _)| index < *earliest) {
            self.failed = Some((index, error));
        }
    }
}

/// What a free thread does next, the order being by preference: what frees memory first.
enum Move<R, P> {
    Close(u64, P),
    Serve(u64, R),
    Make(u64),
    Wait,
    Leave,
}

impl<R, P, N, U> Job<R, P, N, U> {
    fn worker<T>(&self, work: &impl Fn(T) -> Result<R>, after: &impl Fn(P) -> Result<()>)
    where
        N: FnMut() -> Result<Option<T>>,
        U: FnMut(R) -> Result<P>,
    {
        let _alarm = Alarm { state: &self.state, changed: &self.changed };
        loop {
            match self.next_move() {
                Move::Leave => return,
                Move::Wait => {}
                Move::Serve(index, result) => {
                    let served = lock(&self.turn)(result);
                    let mut state = lock(&self.state);
                    state.serving = false;
                    state.served = state.served.saturating_add(1);
                    match served {
                        Ok(placed) => state.placed.push_back((index, placed)),
                        Err(error) => state.leave(index, Err(error)),
                    }
                    self.changed.notify_all();
                }
                Move::Close(index, placed) => {
                    let done = after(placed);
                    let mut state = lock(&self.state);
                    state.closing = false;
                    state.leave(index, done);
                    self.changed.notify_all();
                }
                Move::Make(index) => {
                    let task = lock(&self.next)();
                    let ended = !matches!(task, Ok(Some(_)));
                    {
                        let mut state = lock(&self.state);
                        state.making = false;
                        state.ended |= ended;
                        self.changed.notify_all();
                    }
                    let result = match task {
                        Ok(Some(task)) => work(task).map(Some),
                        Ok(None) => Ok(None),
                        Err(error) => Err(error),
                    };
                    let mut state = lock(&self.state);
                    match result {
                        Ok(Some(result)) => {
                            state.ready.insert(index, result);
                        }
                        Ok(None) => state.leave(index, Ok(())),
                        Err(error) => state.leave(index, Err(error)),
                    }
                    self.changed.notify_all();
                }
            }
        }
    }

    fn next_move(&self) -> Move<R, P> {
        let mut state = lock(&self.state);
        if state.failed.is_some() || state.broken {
            return Move::Leave;
        }
        if !state.closing
            && let Some((index, placed)) = state.placed.pop_front()
        {
            state.closing = true;
            return Move::Close(index, placed);
        }
        let served = state.served;
        if !state.serving
            && let Some(result) = state.ready.remove(&served)
        {
            state.serving = true;
            return Move::Serve(served, result);
        }
        if !state.ended && !state.making && state.in_flight < self.window {
            state.making = true;
            state.in_flight = state.in_flight.saturating_add(1);
            let index = state.made;
            state.made = state.made.saturating_add(1);
            return Move::Make(index);
        }
        if state.ended && state.in_flight == 0 {
            return Move::Leave;
        }
        drop(self.changed.wait(state).unwrap_or_else(PoisonError::into_inner));
        Move::Wait
    }
}

/// A poisoned lock only says that another thread panicked; the scope carries that panic on.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How many threads to use when nobody said: one per available core.
#[must_use]
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(1, std::num::NonZeroUsize::get)
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::{Steps, run_ordered};
    use crate::Error;

    fn numbers(count: u64) -> impl FnMut() -> crate::Result<Option<u64>> + Send {
        let mut next = 0;
        move || {
            next += 1;
            Ok((next <= count).then_some(next - 1))
        }
    }

    #[test]
    fn turns_come_in_order_for_any_number_of_threads() {
        for threads in [1, 2, 7] {
            let mut seen = Vec::new();
            run_ordered(
                threads,
                4,
                Steps {
                    next: numbers(500),
                    work: |n: u64| {
                        if n.is_multiple_of(7) {
                            std::thread::yield_now();
                        }
                        Ok(n * 2)
                    },
                    turn: |n| {
                        seen.push(n);
                        Ok(())
                    },
                    after: |()| Ok(()),
                },
            )
            .unwrap();
            assert_eq!(seen, (0..500).map(|n| n * 2).collect::<Vec<_>>());
        }
    }

    #[test]
    fn a_panic_in_any_step_ends_the_job_with_that_panic() {
        for step in 0..3 {
            let run = || {
                let fails = |here: u32, n: u64| assert!(here != step || n != 20, "planted");
                run_ordered(
                    3,
                    4,
                    Steps {
                        next: numbers(1_000),
                        work: |n| {
                            fails(0, n);
                            Ok(n)
                        },
                        turn: |n| {
                            fails(1, n);
                            Ok(n)
                        },
                        after: |n| {
                            fails(2, n);
                            Ok(())
                        },
                    },
                )
            };
            assert!(std::panic::catch_unwind(run).is_err(), "step {step}");
        }
    }

    #[test]
    fn no_more_than_the_window_is_in_flight() {
        let (now, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        run_ordered(
            3,
            5,
            Steps {
                next: numbers(300),
                work: |n| {
                    most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                    Ok(n)
                },
                turn: Ok,
                after: |_| {
                    now.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                },
            },
        )
        .unwrap();
        assert!(most.into_inner() <= 5);
    }

    #[test]
    fn no_two_tasks_are_closed_at_once() {
        let inside = AtomicUsize::new(0);
        let closed = Mutex::new(Vec::new());
        run_ordered(
            4,
            8,
            Steps {
                next: numbers(200),
                work: Ok,
                turn: Ok,
                after: |n| {
                    assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                    std::thread::yield_now();
                    closed.lock().unwrap().push(n);
                    inside.fetch_sub(1, Ordering::SeqCst);
                    Ok(())
                },
            },
        )
        .unwrap();
        assert_eq!(closed.into_inner().unwrap(), (0..200).collect::<Vec<_>>());
    }

    #[test]
    fn the_earliest_error_is_reported_and_later_turns_do_not_happen() {
        for threads in [1, 4] {
            let turns = Mutex::new(Vec::new());
            let error = run_ordered(
                threads,
                8,
                Steps {
                    next: numbers(100),
                    work: |n| if n == 10 { Err(Error::Cancelled) } else { Ok(n) },
                    turn: |n| {
                        turns.lock().unwrap().push(n);
                        Ok(())
                    },
                    after: |()| Ok(()),
                },
            )
            .unwrap_err();
            assert_eq!(error.code(), "cancelled");
            assert!(turns.into_inner().unwrap().iter().all(|n| *n < 10));
        }
    }
}
