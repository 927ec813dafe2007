//! A thread for what takes milliseconds, one thing after another, behind all who wait for a processor meanwhile.

use std::{sync::mpsc, thread};

use tokio::sync::oneshot;

/// Linux counts it for each thread: this one gets a tenth of what others get, where they want it.
#[cfg(target_os = "linux")]
const NICENESS: i32 = 10;

type Work = Box<dyn FnOnce() + Send>;

#[derive(Debug)]
pub struct Aside(mpsc::Sender<Work>);

impl Aside {
    /// Its thread lives as long as it does.
    pub fn new(name: &str) -> std::io::Result<Self> {
        let (sender, work) = mpsc::channel::<Work>();
        thread::Builder::new().name(name.to_owned()).spawn(move || {
            #[cfg(target_os = "linux")]
            if let Err(error) = rustix::process::nice(NICENESS) {
                tracing::debug!(error.message = %error, "large frames are read at the priority of all else");
            }
            for work in work {
                work();
            }
        })?;
        Ok(Self(sender))
    }

    /// What the work comes to; none where it panicked.
    pub async fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
        let (sender, done) = oneshot::channel();
        let work = move || {
            // Whoever asked for it may be gone.
            if sender.is_closed() {
                return;
            }
            let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(work));
            let _ = sender.send(result.ok());
        };
        self.0.send(Box::new(work)).ok()?;
        done.await.ok().flatten()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_is_done_one_after_another_and_a_panic_ends_only_itself() {
        let aside = Aside::new("aside").unwrap();
        assert_eq!(aside.run(|| 1).await, Some(1));
        assert_eq!(aside.run(|| -> i32 { panic!("oh") }).await, None);
        assert_eq!(aside.run(|| 2).await, Some(2));
    }
}
