//! Getting the right to read one repository: the token that a registry's challenge asks for.

use hyper::header::{HeaderValue, WWW_AUTHENTICATE};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use form_urlencoded::Serializer;
use serde::Deserialize;

use super::super::http::url::{Scheme, Url};
use super::super::http::{Answer, Outgoing};
use super::challenge::{Challenge, parse_challenges};
use super::credentials::{self, Credentials};
use super::{Endpoint, FetchError, Registry, check};

/// Most bytes of an answer with a token: those of large organisations have some 20 KiB.
const MAX_TOKEN: u64 = 256 * 1024;
/// What banger calls itself where tokens are given.
const CLIENT: &str = "banger";

#[derive(Debug, Deserialize)]
struct TokenAnswer {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Registry {
    /// What to send with requests, as the registry's refusal asks for it.
    pub(super) async fn authenticate(
        &self,
        endpoint: &Endpoint,
        refusal: &Answer,
    ) -> Result<HeaderValue, FetchError> {
        let headers = refusal.headers(&WWW_AUTHENTICATE);
        let challenges: Vec<_> = headers.flat_map(parse_challenges).collect();
        let by = |scheme: &str| challenges.iter().find(|c| c.scheme == scheme);
        let credentials = self.credentials(endpoint).await?;
        if let Some(bearer) = by("bearer") {
            return self.token(endpoint, bearer, &credentials).await;
        }
        match (by("basic"), &credentials) {
            (Some(_), Credentials::Basic(..)) => basic(endpoint, &credentials),
            (Some(_), _) => Err(endpoint.denied("access", String::new())),
            (None, _) => Err(FetchError::Challenge { host: endpoint.host.clone() }),
        }
    }

    async fn credentials(&self, endpoint: &Endpoint) -> Result<Credentials, FetchError> {
        let (config, path) = (self.config.clone(), self.search_path.clone());
        let host = endpoint.login.clone();
        // A program may be asked, which takes its time.
        let found =
            tokio::task::spawn_blocking(move || credentials::find(config.as_deref(), &path, &host));
        match found.await {
            Ok(Ok(credentials)) => Ok(credentials),
            Ok(Err(source)) => {
                Err(FetchError::Credentials { host: endpoint.login.clone(), source: source.into() })
            }
            Err(_) => Err(FetchError::Challenge { host: endpoint.host.clone() }),
        }
    }

    async fn token(
        &self,
        endpoint: &Endpoint,
        bearer: &Challenge,
        credentials: &Credentials,
    ) -> Result<HeaderValue, FetchError> {
        let request = token_request(endpoint, bearer, credentials)?;
        let answer = self.client.send(&request).await?;
        let mut answer = match check(answer, endpoint, "a token").await {
            // The credentials are wrong, or missing.
            Err(FetchError::Status { status, said, .. }) if status.as_u16() == 400 => {
                return Err(endpoint.denied("a token", said));
            }
            other => other?,
        };
        let host = answer.host.clone();
        let bytes = answer.collect(MAX_TOKEN).await?;
        let unusable = || FetchError::Token { host: host.clone() };
        let said: TokenAnswer = serde_json::from_slice(&bytes).map_err(|_| unusable())?;
        let token = if said.token.is_empty() { said.access_token } else { said.token };
        if token.is_empty() {
            return Err(unusable());
        }
        HeaderValue::from_str(&format!("Bearer {token}")).map_err(|_| unusable())
    }
}

/// Asks for the right to read the one repository, whatever else the challenge suggests.
fn token_request(
    endpoint: &Endpoint,
    bearer: &Challenge,
    credentials: &Credentials,
) -> Result<Outgoing, FetchError> {
    let realm = bearer.param("realm").unwrap_or_default();
    let bad_realm = || FetchError::Realm {
        host: endpoint.host.clone(),
        realm: realm.chars().take(200).collect(),
    };
    let url = Url::parse(realm).map_err(|_| bad_realm())?;
    if endpoint.scheme == Scheme::Https && url.scheme() == Scheme::Http {
        return Err(bad_realm());
    }
    let mut query = Serializer::new(String::new());
    if let Some(service) = bearer.param("service") {
        query.append_pair("service", service);
    }
    query.append_pair("scope", &format!("repository:{}:pull", endpoint.repository));
    query.append_pair("client_id", CLIENT);
    if let Credentials::Refresh(token) = credentials {
        query.append_pair("grant_type", "refresh_token");
        query.append_pair("refresh_token", &token.0);
        return Ok(Outgoing { form: Some(query.finish()), ..Outgoing::get(url) });
    }
    let url = url.with_query(&query.finish()).map_err(|_| bad_realm())?;
    let authorization = match credentials {
        Credentials::Basic(..) => Some(basic(endpoint, credentials)?),
        _ => None,
    };
    Ok(Outgoing { authorization, ..Outgoing::get(url) })
}

fn basic(endpoint: &Endpoint, credentials: &Credentials) -> Result<HeaderValue, FetchError> {
    let Credentials::Basic(user, password) = credentials else {
        return Err(endpoint.denied("access", String::new()));
    };
    let text = STANDARD.encode(format!("{user}:{}", password.0));
    HeaderValue::from_str(&format!("Basic {text}"))
        .map_err(|_| endpoint.denied("access", String::new()))
}
