//! What the services under test log: warnings and errors, or what `RUST_LOG` says, stand in the output of the test that they
//! belong to, and a test can keep everything.

use std::{
    cell::RefCell,
    io::{self, Write},
    sync::Once,
};

use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{LevelFilter, dynamic_filter_fn},
    fmt,
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

thread_local! {
    /// What is logged on this thread, once somebody wants to know.
    static KEPT: RefCell<Option<Vec<u8>>> = const { RefCell::new(None) };
}

static INSTALLED: Once = Once::new();

struct Keep;

impl Write for Keep {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        KEPT.with_borrow_mut(|kept| kept.get_or_insert_default().extend_from_slice(bytes));
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// The subscriber is the process's: with one of a thread alone, a message that another test's thread comes by first is
/// taken for one that nobody wants.
pub fn install() {
    INSTALLED.call_once(|| {
        let wanted =
            dynamic_filter_fn(|_, _| KEPT.with_borrow(Option::is_some)).with_max_level_hint(LevelFilter::DEBUG);
        // The clients of the tests themselves tell errors that are none.
        let shown = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,rdkafka=off"));
        let shown = fmt::layer().with_ansi(false).with_test_writer().with_filter(shown);
        let kept = fmt::layer().with_ansi(false).with_writer(|| Keep).with_filter(wanted);
        tracing_subscriber::registry().with(shown).with(kept).init();
    });
}

/// From here on, what is logged on this thread is kept, debugging messages as well.
pub fn keep() {
    install();
    KEPT.set(Some(Vec::new()));
}

/// What was kept.
pub fn kept() -> String {
    KEPT.with_borrow(|kept| String::from_utf8_lossy(kept.as_deref().unwrap_or_default()).into_owned())
}
