//! Fetches one set of credentials from one source, with Amazon's own providers.
//!
//! No state is kept between two fetches: files and the environment are read anew, and no provider
//! remembers an answer, so that only the parent module decides which credentials serve while a source
//! fails.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::client::error::ImdsError;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_config::{BehaviorVersion, Region, SdkConfig};
use aws_credential_types::Credentials as Fetched;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use thiserror::Error as ThisError;
use tokio::runtime::Handle;
use tokio::time::{Instant, timeout, timeout_at};
use tokio_util::task::AbortOnDropHandle;
use tracing::debug;

use crate::s3::credentials::{Credentials, LAST_SECONDS};
use crate::s3::identity::Source;
use crate::secret::Secret;

/// The time limit of one fetch, with the repetitions of the provider itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// The default name of a role's session, which shows in the logs of AWS.
const SESSION_NAME: &str = "yatagarasu";

/// The reason why a source gave no credentials.
#[derive(Debug, ThisError)]
pub(super) enum Failure {
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Timeout,
    /// The messages of the error and of its causes. Their `Debug` would hold the whole answer.
    #[error("{0}")]
    Provider(String),
    #[error("the provider panicked")]
    Panic,
    #[error("what came has expired already, or does in {} s; is a clock wrong?", LAST_SECONDS.as_secs())]
    Expired,
    #[error("what came holds a character that a key cannot have")]
    Unprintable,
}

/// The answer of one of Amazon's providers.
type Provided = Result<Fetched, CredentialsError>;

/// The providers, over one pool of connections.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    client: SharedHttpClient,
}

impl Fetcher {
    pub(super) fn new() -> Self {
        let tls = Provider::Rustls(CryptoMode::Ring);
        Self { client: aws_smithy_http_client::Builder::new().tls_provider(tls).build_https() }
    }

    async fn fetch(&self, source: &Source) -> Outcome {
        let fetched = timeout(PATIENCE, self.ask(source)).await.map_err(|_| Failure::Timeout)?;
        let fetched = fetched.map_err(|error| Failure::Provider(words(&error)))?;
        let credentials = Credentials {
            access_key: Secret::new(fetched.access_key_id()),
            secret_key: Secret::new(fetched.secret_access_key()),
            session_token: fetched.session_token().filter(|token| !token.is_empty()).map(Secret::new),
            expires: fetched.expiry(),
        };
        if !credentials.are_printable() {
            return Err(Failure::Unprintable);
        }
        if !credentials.are_valid(SystemTime::now()) {
            return Err(Failure::Expired);
        }
        Ok(credentials)
    }

    async fn ask(&self, source: &Source) -> Provided {
        match source {
            Source::Default { region } => {
                let chain = DefaultCredentialsChain::builder().configure(self.config(Some(region)));
                chain.build().await.provide_credentials().await
            }
            Source::Profile { region, name, file } => {
                self.profile(region, name.as_deref(), file.as_deref()).await
            }
            Source::WebIdentity { region, role_arn, token_file, session_name } => {
                let configuration = web_identity(role_arn, token_file, session_name)?;
                WebIdentityTokenCredentialsProvider::builder()
                    .static_configuration(configuration)
                    .configure(&self.config(Some(region)))
                    .build()
                    .provide_credentials()
                    .await
            }
            Source::Container => {
                EcsCredentialsProvider::builder().configure(&self.config(None)).build().credentials().await
            }
            Source::Instance => {
                let provider = ImdsCredentialsProvider::builder().configure(&self.config(None)).build();
                provider.provide_credentials().await
            }
            Source::AssumeRole { region, role_arn, session_name, external_id, base } => {
                let mut provider = AssumeRoleProvider::builder(role_arn)
                    .session_name(session_name.as_deref().unwrap_or(SESSION_NAME));
                if let Some(external_id) = external_id {
                    provider = provider.external_id(external_id);
                }
                let config = self.sdk_config(region, base.as_ref()).await;
                provider.configure(&config).build().await.provide_credentials().await
            }
        }
    }

    async fn profile(&self, region: &String, name: Option<&str>, file: Option<&Path>) -> Provided {
        let mut provider = ProfileFileCredentialsProvider::builder().configure(&self.config(Some(region)));
        if let Some(name) = name {
            provider = provider.profile_name(name);
        }
        if let Some(file) = file {
            let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file);
            provider = provider.profile_files(files.build());
        }
        provider.build().provide_credentials().await
    }

    /// The SDK's configuration for assuming a role with the credentials `base`; the default source supplies
    /// them if there are none.
    async fn sdk_config(&self, region: &str, base: Option<&Credentials>) -> SdkConfig {
        let mut config = aws_config::defaults(BehaviorVersion::latest())
            .http_client(self.client.clone())
            .region(Region::new(region.to_owned()));
        if let Some(base) = base {
            config = config.credentials_provider(Fetched::new(
                base.access_key.expose(),
                base.secret_key.expose(),
                base.session_token.as_ref().map(|token| token.expose().to_owned()),
                None,
                "configuration",
            ));
        }
        config.load().await
    }

    fn config(&self, region: Option<&String>) -> ProviderConfig {
        ProviderConfig::without_region()
            .with_region(region.cloned().map(Region::new))
            .with_http_client(self.client.clone())
    }
}

/// The outcome of one fetch.
type Outcome = Result<Credentials, Failure>;

/// A fetch, until its answer is used. Dropping it cancels the fetch.
pub(super) enum Asked {
    UnderWay(AbortOnDropHandle<Outcome>),
    Answered(Outcome),
}

impl Asked {
    /// Begins a fetch on a task of its own, so that a panic in the provider is a failure like others.
    pub(super) fn begin(runtime: &Handle, fetcher: Fetcher, source: Source) -> Self {
        Self::UnderWay(AbortOnDropHandle::new(runtime.spawn(async move {
            let began = Instant::now();
            let outcome = fetcher.fetch(&source).await;
            tell(&source, &outcome, began.elapsed());
            outcome
        })))
    }

    /// Waits for the answer, until the deadline at most.
    pub(super) async fn answered_by(&mut self, deadline: Instant) {
        if let Self::UnderWay(fetch) = self
            && let Ok(answer) = timeout_at(deadline, fetch).await
        {
            *self = Self::Answered(answer.unwrap_or(Err(Failure::Panic)));
        }
    }

    /// The credentials, if they have come.
    pub(super) fn credentials(&self) -> Option<&Credentials> {
        match self {
            Self::Answered(Ok(credentials)) => Some(credentials),
            Self::Answered(Err(_)) | Self::UnderWay(_) => None,
        }
    }

    /// The answer, as soon as it has come.
    pub(super) async fn answer(self) -> Outcome {
        match self {
            Self::UnderWay(fetch) => fetch.await.unwrap_or(Err(Failure::Panic)),
            Self::Answered(answer) => answer,
        }
    }
}

/// Logs the outcome of a fetch at the level `debug`.
fn tell(source: &Source, outcome: &Outcome, took: Duration) {
    debug!(
        source = source.name(),
        outcome = if outcome.is_ok() { "success" } else { "failure" },
        error = outcome.as_ref().err().map(ToString::to_string),
        duration_ms = took.as_millis() as u64,
        "credentials asked for"
    );
}

/// The role of a web identity; the environment supplies the keys that the configuration leaves out.
fn web_identity(
    role_arn: &Option<String>,
    token_file: &Option<PathBuf>,
    session_name: &Option<String>,
) -> Result<StaticConfiguration, CredentialsError> {
    let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
    let missing = |key: &str, name: &str| {
        CredentialsError::not_loaded(format!("there is no `{key}`, and {name} is not set"))
    };
    Ok(StaticConfiguration {
        web_identity_token_file: token_file
            .clone()
            .or_else(|| variable("AWS_WEB_IDENTITY_TOKEN_FILE").map(Into::into))
            .ok_or_else(|| missing("token_file", "AWS_WEB_IDENTITY_TOKEN_FILE"))?,
        role_arn: role_arn
            .clone()
            .or_else(|| variable("AWS_ROLE_ARN"))
            .ok_or_else(|| missing("role_arn", "AWS_ROLE_ARN"))?,
        session_name: session_name
            .clone()
            .or_else(|| variable("AWS_ROLE_SESSION_NAME"))
            .unwrap_or_else(|| SESSION_NAME.to_owned()),
    })
}

/// The messages of an error and of its causes, each once, on one line.
fn words(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = match error.downcast_ref() {
            // The message of this error would hold the whole answer.
            Some(ImdsError::ErrorResponse(answer)) => {
                format!("the metadata service answered {}", answer.response().status().as_u16())
            }
            _ => error.to_string(),
        };
        if words.last() != Some(&text) {
            words.push(text);
        }
        next = error.source();
    }
    words.join(": ").chars().map(|c| if c.is_control() { ' ' } else { c }).take(400).collect()
}
