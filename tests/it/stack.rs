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

    /// `more` goes to the top level of the configuration.
    pub async fn with(more: &str) -> Self {
        let store = Store::start().await;
        store.put("photos", "cat.jpg", "a cat");
        store.put("papers", "plan.txt", "a plan");
        let proxy = PROGRAM.start(&Self::config(&store, more)).await;
        Self { store, proxy }
    }

    pub fn config(store: &Store, more: &str) -> String {
        let jwt = if more.contains("jwt:") { "" } else { JWT };
        let photos = bucket("photos", "/photos", store, PUBLIC);
        let papers = bucket("papers", "/papers", store, PRIVATE);
        format!("{more}\n{jwt}buckets:\n{photos}{papers}")
    }
}
