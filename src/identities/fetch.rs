//! One set of credentials from one source, by Amazon's own providers.
//!
//! Nothing is kept from one time to the next: files and the environment are read anew, and no provider
//! remembers what it found, so what is served while a source fails is decided in one place only, above.

use std::error::Error;
use std::time::{Duration, SystemTime};

use aws_config::default_provider::credentials::DefaultCredentialsChain;
use aws_config::ecs::EcsCredentialsProvider;
use aws_config::imds::client::error::ImdsError;
use aws_config::imds::credentials::ImdsCredentialsProvider;
use aws_config::profile::ProfileFileCredentialsProvider;
use aws_config::provider_config::ProviderConfig;
use aws_config::sts::AssumeRoleProvider;
use aws_config::web_identity_token::{StaticConfiguration, WebIdentityTokenCredentialsProvider};
use aws_config::{BehaviorVersion, Region};
use aws_credential_types::Credentials as Fetched;
use aws_credential_types::provider::ProvideCredentials;
use aws_credential_types::provider::error::CredentialsError;
use aws_runtime::env_config::file::{EnvConfigFileKind, EnvConfigFiles};
use aws_smithy_http_client::tls::Provider;
use aws_smithy_http_client::tls::rustls_provider::CryptoMode;
use aws_smithy_runtime_api::client::http::SharedHttpClient;
use thiserror::Error as ThisError;
use tokio::time::timeout;

use crate::s3::identity::{Credentials, LAST_SECONDS, Source};
use crate::secret::Secret;

/// For one try, with the repetitions of the provider itself.
const PATIENCE: Duration = Duration::from_secs(10);

/// What a role's session is called where nobody has named it; it is found in the log of AWS.
const SESSION_NAME: &str = "yatagarasu";

#[derive(Debug, ThisError)]
pub(super) enum Failure {
    #[error("no answer in {} s", PATIENCE.as_secs())]
    Timeout,
    /// The words of the error and of its causes. Their `Debug` would hold the whole answer.
    #[error("{0}")]
    Provider(String),
    #[error("the provider panicked")]
    Panic,
    #[error("what came has expired already, or does in {} s; is a clock wrong?", LAST_SECONDS.as_secs())]
    Expired,
    #[error("what came holds a character that a key cannot have")]
    Unprintable,
}

/// Fetches over connections that it shares.
#[derive(Debug, Clone)]
pub(super) struct Fetcher {
    client: SharedHttpClient,
}

impl Fetcher {
    pub(super) fn new() -> Self {
        let tls = Provider::Rustls(CryptoMode::Ring);
        Self { client: aws_smithy_http_client::Builder::new().tls_provider(tls).build_https() }
    }

    pub(super) async fn fetch(&self, source: &Source) -> Result<Credentials, Failure> {
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

    async fn ask(&self, source: &Source) -> Result<Fetched, CredentialsError> {
        match source {
            Source::Default { region } => {
                let chain = DefaultCredentialsChain::builder().configure(self.config(Some(region)));
                chain.build().await.provide_credentials().await
            }
            Source::Profile { region, name, file } => {
                let mut provider =
                    ProfileFileCredentialsProvider::builder().configure(&self.config(Some(region)));
                if let Some(name) = name {
                    provider = provider.profile_name(name);
                }
                if let Some(file) = file {
                    let files = EnvConfigFiles::builder().with_file(EnvConfigFileKind::Credentials, file);
                    provider = provider.profile_files(files.build());
                }
                provider.build().provide_credentials().await
            }
            Source::WebIdentity { region, role_arn, token_file, session_name } => {
                let variable = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
                let missing = |what: &str, name: &str| {
                    CredentialsError::not_loaded(format!("there is no `{what}`, and {name} is not set"))
                };
                let configuration = StaticConfiguration {
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
                };
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
                let mut config = aws_config::defaults(BehaviorVersion::latest())
                    .http_client(self.client.clone())
                    .region(Region::new(region.clone()));
                if let Some(base) = base {
                    config = config.credentials_provider(Fetched::new(
                        base.access_key.expose(),
                        base.secret_key.expose(),
                        base.session_token.as_ref().map(|token| token.expose().to_owned()),
                        None,
                        "configuration",
                    ));
                }
                let mut provider = AssumeRoleProvider::builder(role_arn)
                    .session_name(session_name.as_deref().unwrap_or(SESSION_NAME));
                if let Some(external_id) = external_id {
                    provider = provider.external_id(external_id);
                }
                provider.configure(&config.load().await).build().await.provide_credentials().await
            }
        }
    }

    fn config(&self, region: Option<&String>) -> ProviderConfig {
        ProviderConfig::without_region()
            .with_region(region.cloned().map(Region::new))
            .with_http_client(self.client.clone())
    }
}

/// An error and its causes, each once, on one line.
fn words(error: &(dyn Error + 'static)) -> String {
    let mut words: Vec<String> = Vec::new();
    let mut next = Some(error);
    while let Some(error) = next {
        let text = match error.downcast_ref() {
            // Its own words have the whole answer in them.
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
