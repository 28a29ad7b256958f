//! The program under test, and the store and proxy that most tests begin with.

use kit::*;

/// Cargo tells this path to the tests and benches of the package only.
pub const PROGRAM: Program = Program::at(env!("CARGO_BIN_EXE_yatagarasu"));

/// A store with a public bucket `photos` at `/photos` and a private one `papers` at `/papers`.
pub struct Stack {
    pub store: Store,
    pub proxy: Proxy,
}

impl Stack {
    pub async fn start() -> Self {
        Self::with("").await
    }

    /// A stack with more sections in its configuration.
    pub async fn with(sections: &str) -> Self {
        Self::configured(|config| config.with(sections)).await
    }

    /// A stack whose configuration differs from the usual one.
    pub async fn configured(configure: impl FnOnce(Config) -> Config) -> Self {
        let store = Store::start().await;
        store.put("photos", "cat.jpg", "a cat");
        store.put("papers", "plan.txt", "a plan");
        let proxy = PROGRAM.start(&configure(two_buckets(&store))).await;
        Self { store, proxy }
    }

    /// The usual configuration.
    pub fn config(&self) -> Config {
        two_buckets(&self.store)
    }

    /// The usual configuration, with the public bucket at another prefix.
    pub fn photos_at(&self, prefix: &str) -> Config {
        self.config().change("photos", |photos| photos.at(prefix))
    }
}

/// The usual configuration of a [`Stack`].
pub fn two_buckets(store: &Store) -> Config {
    Config::new()
        .bucket(Bucket::named("photos").store(store))
        .bucket(Bucket::named("papers").store(store).private())
}
