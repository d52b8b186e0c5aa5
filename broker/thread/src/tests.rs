//! Each way of waiting, with the threads of the system and in a simulation whose threads run
//! freely.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::Thread as System;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::*;

const LONG: Duration = Duration::from_secs(600);
const SHORT: Duration = Duration::from_millis(1);

/// Threads of the system, and a wall clock that does not advance.
struct Free;

struct Unpark(System);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Simulation for Free {
    fn spawn(&self, _: &str, body: Box<dyn FnOnce() + Send>) -> io::Result<()> {
        drop(std::thread::Builder::new().spawn(body)?);
        Ok(())
    }

    fn wait(&self, event: &Arc<Event>, timeout: Option<Duration>) -> Wait {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let until = timeout.map(|timeout| Instant::now() + timeout);
        loop {
            if event.poll(&mut Context::from_waker(&waker)) == Poll::Ready(()) {
                return Wait::Woken;
            }
            let left = until.map(|until| until.saturating_duration_since(Instant::now()));
            match left {
                Some(left) if left.is_zero() => return Wait::TimedOut,
                Some(left) => std::thread::park_timeout(left),
                None => std::thread::park(),
            }
        }
    }

    fn now(&self) -> Instant {
        Instant::now()
    }

    fn time_ms(&self) -> i64 {
        77
    }
}

/// Runs a test with the threads of the system, then in a simulation.
fn both(test: impl Fn()) {
    test();
    let simulated = simulate(Arc::new(Free));
    assert!(is_simulated());
    test();
    drop(simulated);
    assert!(!is_simulated());
}

#[test]
fn a_receiver_gets_the_values_in_order_and_then_the_end() {
    both(|| {
        let (sender, receiver) = channel();
        let other = sender.clone();
        let thread = spawn("sender", move || {
            assert!(sender.send(1));
            assert!(other.send(2));
        });
        assert_eq!((receiver.recv(), receiver.recv()), (Ok(1), Ok(2)));
        assert_eq!(receiver.recv(), Err(RecvError));
        assert_eq!(receiver.recv_timeout(LONG), Err(RecvTimeoutError::Disconnected));
        thread.expect("a thread").join().expect("no panic");
    });
}

#[test]
fn a_wait_for_a_value_ends_with_its_time() {
    both(|| {
        let (sender, receiver) = channel::<u8>();
        assert_eq!(receiver.recv_timeout(SHORT), Err(RecvTimeoutError::Timeout));
        assert_eq!(receiver.try_iter().count(), 0);
        drop(receiver);
        assert!(!sender.send(1), "there is no receiver");
    });
}

#[test]
fn a_thread_is_woken_by_each_means() {
    both(|| {
        let (state, changed) = (Arc::new(Mutex::new(0)), Arc::new(Condvar::default()));
        let (held, waits) = (Arc::clone(&state), Arc::clone(&changed));
        let thread = spawn("waiter", move || {
            let mut held = held.lock();
            while *held == 0 {
                waits.wait(&mut held);
            }
            assert!(waits.wait_for(&mut held, SHORT) || *held == 1);
            drop(held);
            park_timeout(LONG);
            sleep(SHORT);
            drop(current());
            7
        });
        let thread = thread.expect("a thread");
        *state.lock() = 1;
        changed.notify_one();
        thread.thread().unpark();
        assert_eq!(thread.join().expect("no panic"), 7);
    });
}

#[test]
fn the_panic_of_a_thread_reaches_the_one_that_joins_it() {
    both(|| {
        let thread = spawn("faulty", || -> () { panic!("a bug") });
        assert!(thread.expect("a thread").join().is_err());
    });
}

#[test]
fn a_thread_waits_for_a_future_and_the_simulation_says_what_time_it_is() {
    assert_eq!(wait_for(std::future::ready(1), |_| 2), 2, "outside of a simulation");
    let _simulated = simulate(Arc::new(Free));
    assert_eq!(time_ms(), 77);
    let (event, set) = (Arc::new(Event::default()), Arc::new(Event::default()));
    let ready = Arc::clone(&event);
    let setter = spawn("setter", move || {
        set.set();
        ready.set();
    });
    wait_for(std::future::poll_fn(|context| event.poll(context)), |_| panic!("it is simulated"));
    setter.expect("a thread").join().expect("no panic");
}
