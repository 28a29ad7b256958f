//! Configuration files, built from parts with the names of the domain.

use std::fmt::Write;

use crate::store::{self, Store};
use crate::token::SECRET;

/// The content of a configuration file for a process that listens on a port.
pub trait ConfigFile {
    fn text(&self, port: u16) -> String;
}

/// A text as it is, below a `server` block with the port if it has none of its own.
impl ConfigFile for str {
    fn text(&self, port: u16) -> String {
        if has_section(self, "server") { self.to_owned() } else { server(port, &[]) + self }
    }
}

impl ConfigFile for String {
    fn text(&self, port: u16) -> String {
        self.as_str().text(port)
    }
}

impl ConfigFile for Config {
    fn text(&self, port: u16) -> String {
        let has_server = self.sections.iter().any(|section| has_section(section, "server"));
        let server = if has_server { String::new() } else { server(port, &self.server) };
        server + &self.yaml()
    }
}

fn has_section(text: &str, name: &str) -> bool {
    text.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(':')))
}

fn server(port: u16, keys: &[String]) -> String {
    let more: String = keys.iter().map(|keys| format!(", {keys}")).collect();
    format!("server: {{ address: 127.0.0.1, port: {port}{more} }}\n")
}

#[derive(Debug, Clone)]
pub struct Config {
    server: Vec<String>,
    jwt: Option<Vec<String>>,
    sections: Vec<String>,
    buckets: Vec<Bucket>,
}

impl Default for Config {
    fn default() -> Self {
        Self::new()
    }
}

impl Config {
    /// No bucket, and a `jwt` block that the tokens of [`crate::token`] fit.
    pub fn new() -> Self {
        let jwt = Some(vec![format!("secret: {SECRET}")]);
        Self { server: Vec::new(), jwt, sections: Vec::new(), buckets: Vec::new() }
    }

    /// No bucket and no `jwt` block.
    pub fn without_jwt() -> Self {
        Self { jwt: None, ..Self::new() }
    }

    /// Adds keys to the `server` block, which has an address and a port already: `threads: 1`.
    #[must_use]
    pub fn server(mut self, keys: &str) -> Self {
        self.server.push(keys.to_owned());
        self
    }

    /// Adds keys to the `jwt` block: `enabled: false`.
    #[must_use]
    pub fn jwt(mut self, keys: &str) -> Self {
        self.jwt.get_or_insert_default().push(keys.to_owned());
        self
    }

    /// Adds sections as they are: `reload: { watch: true }`. A `server` or `jwt` section takes the place of
    /// the one that is there by itself.
    #[must_use]
    pub fn with(mut self, sections: &str) -> Self {
        self.sections.extend((!sections.is_empty()).then(|| sections.to_owned()));
        self
    }

    #[must_use]
    pub fn bucket(mut self, bucket: Bucket) -> Self {
        self.buckets.push(bucket);
        self
    }

    #[must_use]
    pub fn buckets(mut self, buckets: impl IntoIterator<Item = Bucket>) -> Self {
        self.buckets.extend(buckets);
        self
    }

    /// Changes every bucket.
    #[must_use]
    pub fn each(mut self, change: impl Fn(Bucket) -> Bucket) -> Self {
        self.buckets = self.buckets.into_iter().map(change).collect();
        self
    }

    /// Changes the bucket of this name.
    #[must_use]
    pub fn change(self, name: &str, change: impl Fn(Bucket) -> Bucket) -> Self {
        self.each(|bucket| if bucket.name == name { change(bucket) } else { bucket })
    }

    /// Everything but the `server` block.
    pub fn yaml(&self) -> String {
        let mut text: String = self.sections.iter().map(|section| format!("{section}\n")).collect();
        if let Some(jwt) = self.jwt.as_ref().filter(|_| !has_section(&text, "jwt")) {
            let _ = writeln!(text, "jwt: {{ {} }}", jwt.join(", "));
        }
        match self.buckets.as_slice() {
            [] => text.push_str("buckets: []\n"),
            buckets => {
                text.push_str("buckets:\n");
                text.extend(buckets.iter().map(Bucket::yaml));
            }
        }
        text
    }
}

/// An entry of `buckets`.
#[derive(Debug, Clone)]
pub struct Bucket {
    name: String,
    path_prefix: String,
    target: String,
    region: String,
    endpoint: Option<String>,
    keys: Option<(String, String)>,
    s3: Vec<String>,
    auth: String,
    more: Vec<String>,
}

/// Everybody reads.
pub const PUBLIC: &str = "auth: { enabled: false }";

/// Everybody reads who has a good token.
pub const PRIVATE: &str = "auth: { enabled: true }";

impl Bucket {
    /// A public bucket at the prefix of its name, for the bucket of that name in a store, with the keys that
    /// every [`Store`] knows.
    pub fn named(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            path_prefix: format!("/{name}"),
            target: name.to_owned(),
            region: "us-east-1".to_owned(),
            endpoint: None,
            keys: Some((store::ACCESS_KEY.to_owned(), store::SECRET_KEY.to_owned())),
            s3: Vec::new(),
            auth: PUBLIC.to_owned(),
            more: Vec::new(),
        }
    }

    #[must_use]
    pub fn at(mut self, path_prefix: &str) -> Self {
        self.path_prefix = path_prefix.to_owned();
        self
    }

    #[must_use]
    pub fn store(self, store: &Store) -> Self {
        self.endpoint(&store.url())
    }

    #[must_use]
    pub fn endpoint(mut self, endpoint: &str) -> Self {
        self.endpoint = Some(endpoint.to_owned());
        self
    }

    /// The bucket in the store.
    #[must_use]
    pub fn target(mut self, bucket: &str) -> Self {
        self.target = bucket.to_owned();
        self
    }

    #[must_use]
    pub fn region(mut self, region: &str) -> Self {
        self.region = region.to_owned();
        self
    }

    #[must_use]
    pub fn keys(mut self, access_key: &str, secret_key: &str) -> Self {
        self.keys = Some((access_key.to_owned(), secret_key.to_owned()));
        self
    }

    #[must_use]
    pub fn without_keys(mut self) -> Self {
        self.keys = None;
        self
    }

    /// Credentials from a source, as `source: container`, in place of keys. Some sources need keys, too:
    /// call [`Self::keys`] after this.
    #[must_use]
    pub fn credentials(self, source: &str) -> Self {
        self.without_keys().s3(&format!("credentials: {{ {source} }}"))
    }

    /// Adds keys to the `s3` block: `ca_file: ca.pem`.
    #[must_use]
    pub fn s3(mut self, keys: &str) -> Self {
        self.s3.push(keys.to_owned());
        self
    }

    #[must_use]
    pub fn private(self) -> Self {
        self.auth(PRIVATE)
    }

    /// The `auth` block, as [`PUBLIC`] is one; lines after the first are indented by four spaces or more.
    #[must_use]
    pub fn auth(mut self, auth: &str) -> Self {
        self.auth = auth.to_owned();
        self
    }

    /// Adds a key to the entry: `deny_networks: [192.0.2.66]`.
    #[must_use]
    pub fn with(mut self, key: &str) -> Self {
        self.more.push(key.to_owned());
        self
    }

    pub fn yaml(&self) -> String {
        let Self { name, path_prefix, target, region, auth, .. } = self;
        let mut s3 = format!("bucket: {target}, region: {region}");
        if let Some(endpoint) = &self.endpoint {
            let _ = write!(s3, ", endpoint: \"{endpoint}\"");
        }
        if let Some((access_key, secret_key)) = &self.keys {
            let _ = write!(s3, ", access_key: {access_key}, secret_key: {secret_key}");
        }
        for keys in &self.s3 {
            let _ = write!(s3, ", {keys}");
        }
        let mut text = format!("- name: {name}\n  path_prefix: {path_prefix}\n  s3: {{ {s3} }}\n  {auth}\n");
        for key in &self.more {
            let _ = writeln!(text, "  {key}");
        }
        text
    }
}
