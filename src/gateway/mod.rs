//! Clients' HTTP: Pingora's phases, in the order in which they run. Each decides nothing that
//! `admit` has not decided; each room is entered once.

mod access_log;
mod address;
pub(crate) mod admission;
mod answering;
mod client_body;
mod context;
mod diagnostics;
mod deadlines;
mod downstream;
mod operators;
mod reason;
mod rejection;
mod store_answer;
pub(crate) mod upstream;

use std::net::IpAddr;
use std::os::fd::RawFd;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{EXPECT, TRANSFER_ENCODING};
use http::request::Parts;
use http::{Method, Version};
use pingora::http::{RequestHeader, ResponseHeader};
use pingora::modules::http::HttpModules;
use pingora::protocols::Digest;
use pingora::proxy::{FailToProxy, ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;
use pingora::{Error, ErrorSource, ErrorType, Result};

use crate::access::external::Services;
use crate::answer::Answer;
use crate::generation::Generation;
use crate::net::peer::{self, Authorities};
use crate::net::resolver::Resolver;
use crate::operators::{Endpoint, Operators};
use crate::s3;
use crate::tokens::issuers::Issuers;
use access_log::{Access, CLIENT_CLOSED, count_external_decision, count_upstream_error};
use address::Client;
pub(crate) use address::LocalUser;
use admission::{Admission, Admitted, Unadmitted, admit, lacks_a_key};
use answering::{WRITE, keep_only, reject, replace, request_id, stamp, take, write};
use context::{Context, Replacement, Upstream};
pub(crate) use downstream::{Downstream, Expected, Malformed};
use reason::{reason, refusal};
use rejection::{METHODS, Rejection, UpstreamError};
use store_answer::Kind;

/// A request that took longer than it may in all.
const OVERDUE: ErrorType = ErrorType::Custom("Overdue");

/// The proxy of one thread, or of the operators.
pub(crate) struct Gateway {
    /// Whether the port is the operators' own, where no objects are served.
    pub(crate) is_for_operators: bool,
    pub(crate) operators: Arc<Operators>,
    pub(crate) resolver: Arc<Resolver>,
    pub(crate) services: Arc<Services>,
    pub(crate) issuers: Arc<Issuers>,
    pub(crate) authorities: Authorities,
}

#[async_trait]
impl ProxyHttp for Gateway {
    type CTX = Context;

    fn new_ctx(&self) -> Context {
        Context {
            generation: self.operators.live.current(),
            _in_flight: self.operators.lifecycle.request(),
            started: Instant::now(),
            received: SystemTime::now(),
            request_id: String::new(),
            downstream: None,
            address: None,
            user: None,
            actor: None,
            bucket: None,
            admission: None,
            rejection: None,
            store_code: None,
            upstream: Upstream::default(),
            replacement: Replacement::None,
        }
    }

    /// No downstream modules: the only one by default is compression, which we never use.
    fn init_downstream_modules(&self, _modules: &mut HttpModules) {}

    async fn early_request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<()> {
        ctx.request_id = request_id(session, ctx.received);
        let peer = session.client_addr().and_then(|address| address.as_inet());
        let trusted = &ctx.generation.config.server.trusted_proxies;
        ctx.downstream = Downstream::of(session);
        let body = client_body::announced(session.req_header());
        if let Some(downstream) = &ctx.downstream {
            ctx.user = downstream.user();
            downstream.expect(body);
        }
        let headers = &session.req_header().headers;
        ctx.address = peer.and_then(|peer| address::of_client(peer.ip(), headers, trusted));
        // Pingora waits for ever for the next request unless told otherwise with every request. Where it
        // has decided to close, after `Connection: close` or a dubious framing, it stays at that.
        if session.get_keepalive().is_some() {
            let draining = self.operators.lifecycle.is_draining();
            let keepalive = ctx.generation.config.server.keepalive.as_secs();
            session.set_keepalive((!draining).then_some(keepalive));
        }
        // An answer may go out before an unwanted body has come in; the connection is good after it.
        session.set_close_on_response_before_downstream_finish(false);
        // Requests that were sent together are answered one after the other (RFC 9112, section 9.3.2); our
        // connection keeps them apart. Only chunks may bring along what follows, and then it ends.
        session.set_pipelining_enabled(body != Expected::Body(None));
        session.set_write_timeout(Some(WRITE));
        Ok(())
    }

    async fn request_filter(&self, session: &mut Session, ctx: &mut Context) -> Result<bool> {
        if let Some(malformed) = ctx.downstream.as_ref().and_then(|downstream| downstream.malformed()) {
            session.set_keepalive(None);
            reject(session, ctx, Rejection::Malformed(malformed)).await?;
            return Ok(true);
        }
        let endpoint = self.endpoint(session, ctx);
        let is_there = endpoint.is_none_or(|endpoint| !operators::is_switched_off(endpoint, ctx));
        if session.req_header().method == Method::OPTIONS && is_there {
            let answer = Answer::text(204, "").allow(endpoint.map_or(METHODS, Endpoint::methods));
            let answer = if endpoint.is_some() { answer.uncached() } else { answer };
            write(session, ctx, answer).await?;
            return Ok(true);
        }
        if let Some(endpoint) = endpoint {
            let answer = self.operators_answer(endpoint, session, ctx).await;
            write(session, ctx, answer).await?;
            return Ok(true);
        }
        let request = session.req_header();
        let admitted = if self.is_for_operators {
            Err(Rejection::NoRoute.into())
        } else {
            self.admit(&ctx.generation, request, ctx.address, ctx.received).await
        };
        diagnostics::tell_decision(ctx, request, &admitted);
        match admitted {
            Ok(admission) => {
                session.set_write_timeout(Some(admission.bucket().timeouts.write));
                // Informational answers of a store do not pass, whether the client waits for one or not.
                session.set_ignore_info_resp(true);
                session.req_header_mut().remove_header(&EXPECT);
                ctx.bucket = Some(admission.shared_bucket().clone());
                ctx.admission = Some(admission);
                Ok(false)
            }
            Err(Unadmitted { bucket, rejection }) => {
                ctx.bucket = bucket;
                reject(session, ctx, rejection).await?;
                Ok(true)
            }
        }
    }

    async fn upstream_peer(&self, _session: &mut Session, ctx: &mut Context) -> Result<Box<HttpPeer>> {
        let bucket = admitted(ctx)?.shared_bucket().clone();
        self.check_total(ctx)?;
        let remaining = ctx.remaining(bucket.timeouts.total);
        if ctx.upstream.candidates.is_empty() {
            let patience = bucket.timeouts.connect.min(remaining);
            ctx.upstream.candidates = self.resolver.addresses(&bucket.store.endpoint().host, patience).await;
        }
        let Some(address) = ctx.upstream.candidates.first() else {
            self.upstream_failed(ctx, UpstreamError::Resolve);
            return Err(Error::new_up(ErrorType::ConnectError));
        };
        let (authorities, generation) = (&self.authorities, ctx.generation.number);
        let (endpoint, timeouts, trust) = (bucket.store.endpoint(), &bucket.timeouts, &bucket.trust);
        let peer = peer::of_store(endpoint, *address, timeouts, trust, remaining, authorities, generation);
        Ok(Box::new(peer))
    }

    fn fail_to_connect(
        &self,
        _session: &mut Session,
        _peer: &HttpPeer,
        ctx: &mut Context,
        mut error: Box<Error>,
    ) -> Box<Error> {
        if let Some(Rejection::Upstream(kind)) = Rejection::of(&error) {
            self.upstream_failed(ctx, kind);
        }
        diagnostics::tell_unconnected(ctx, &error);
        let failed = ctx.upstream.candidates.first().copied();
        if let (Ok(admission), Some(address)) = (admitted(ctx), failed) {
            self.resolver.avoid(&admission.bucket().store.endpoint().host, address);
        }
        if ctx.upstream.candidates.len() > 1 {
            ctx.upstream.candidates.remove(0);
            // Nothing was sent yet, so another address may be tried.
            error.set_retry(true);
        }
        error
    }

    async fn connected_to_upstream(
        &self,
        _session: &mut Session,
        is_reused: bool,
        _peer: &HttpPeer,
        _fd: RawFd,
        _digest: Option<&Digest>,
        ctx: &mut Context,
    ) -> Result<()> {
        ctx.upstream.is_reused = Some(is_reused);
        Ok(())
    }

    async fn upstream_request_filter(
        &self,
        session: &mut Session,
        request: &mut RequestHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        let client = session.req_header();
        let admission = admitted(ctx)?;
        let now = Instant::now();
        *request = upstream::signed_request(client, admission, ctx.time_of(now))?;
        ctx.wait_for_header(now, &admission.bucket().timeouts);
        ctx.upstream.sent_at = Some(now);
        Ok(())
    }

    async fn response_filter(
        &self,
        session: &mut Session,
        response: &mut ResponseHeader,
        ctx: &mut Context,
    ) -> Result<()> {
        if response.status.is_informational() {
            self.check_total(ctx)?;
            return store_answer::informational(response, ctx);
        }
        store_answer::check_framing(response)?;
        ctx.wait_for_body(&admitted(ctx)?.bucket().timeouts);
        // Without the phrase, which is the store's text and has no meaning (RFC 9112, section 4).
        let mut ours = take(response);
        ours.version = Version::HTTP_11;
        store_answer::keep_one_length(&mut ours.headers);
        // What came before chunks were invented would take their lengths for content.
        if session.req_header().version == Version::HTTP_10
            && ours.headers.remove(TRANSFER_ENCODING).is_some()
        {
            session.set_keepalive(None);
        }
        ctx.upstream.latency = ctx.upstream.sent_at.map(|sent| sent.elapsed());
        diagnostics::tell_attempt(ctx, ours.status.as_str());
        // Whatever went wrong with earlier attempts, this one has an answer.
        ctx.rejection = None;
        let status = ours.status.as_u16();
        let failure = match Kind::of(ours.status) {
            Kind::Passed => None,
            Kind::Redirect => Some(Rejection::Upstream(UpstreamError::Redirect)),
            Kind::Meaningless => Some(Rejection::Upstream(UpstreamError::Status(status))),
            Kind::Error => Some(Rejection::Store(status)),
        };
        match failure {
            None => keep_only(&mut ours.headers, upstream::is_passed_back),
            Some(rejection) => {
                ctx.upstream.clock_ahead = upstream::clock_ahead(&ours.headers, SystemTime::now());
                if let Rejection::Upstream(kind) = rejection {
                    self.upstream_failed(ctx, kind);
                }
                replace(session, ctx, &mut ours, rejection)?;
            }
        }
        stamp(ctx, &mut ours.headers)?;
        *response = ours.into();
        Ok(())
    }

    fn response_body_filter(
        &self,
        _session: &mut Session,
        body: &mut Option<Bytes>,
        is_last: bool,
        ctx: &mut Context,
    ) -> Result<Option<Duration>> {
        if !is_last {
            self.check_total(ctx)?;
        }
        match std::mem::take(&mut ctx.replacement) {
            Replacement::None => {}
            Replacement::Pending(ours) => {
                let code = body.as_deref().and_then(s3::error::code_in);
                ctx.store_code = code.map(str::to_owned);
                *body = Some(ours);
                ctx.replacement = Replacement::Done;
            }
            Replacement::Done => {
                *body = None;
                ctx.replacement = Replacement::Done;
            }
        }
        Ok(None)
    }

    fn error_while_proxy(
        &self,
        _peer: &HttpPeer,
        session: &mut Session,
        mut error: Box<Error>,
        ctx: &mut Context,
        client_reused: bool,
    ) -> Box<Error> {
        if let Some(error) = self.given_up(ctx) {
            return error;
        }
        // A pooled connection may close in the moment in which it is used. Nothing was answered and
        // reading twice does no harm, so a GET or HEAD is sent once more.
        let went_stale = client_reused
            && !ctx.upstream.repeated
            && ctx.upstream.informational == 0
            && session.response_written().is_none()
            && *error.esource() == ErrorSource::Upstream
            && matches!(
                error.etype(),
                ErrorType::ReadError | ErrorType::WriteError | ErrorType::ConnectionClosed
            );
        ctx.upstream.repeated |= went_stale;
        error.set_retry(went_stale);
        diagnostics::tell_attempt(ctx, error.etype().as_str());
        if !went_stale && let Some(Rejection::Upstream(kind)) = Rejection::of(&error) {
            self.upstream_failed(ctx, kind);
        }
        error
    }

    async fn fail_to_proxy(&self, session: &mut Session, error: &Error, ctx: &mut Context) -> FailToProxy {
        let rejection = ctx.rejection.take().or_else(|| Rejection::of(error));
        let Some(rejection) = rejection else {
            return FailToProxy { error_code: CLIENT_CLOSED.as_u16(), can_reuse_downstream: false };
        };
        let error_code = rejection.status();
        // Once the header is out, all that is left is to end the connection.
        if session.response_written().is_some() {
            ctx.rejection = Some(rejection);
        } else {
            session.set_keepalive(None);
            // The client may be gone, and there is nobody else to tell.
            let _ = reject(session, ctx, rejection).await;
        }
        FailToProxy { error_code, can_reuse_downstream: false }
    }

    async fn logging(&self, session: &mut Session, error: Option<&Error>, ctx: &mut Context) {
        let request = session.req_header();
        let status = session.response_written().map_or(CLIENT_CLOSED, |response| response.status);
        Access {
            request_id: &ctx.request_id,
            generation: ctx.generation.number,
            bucket: ctx.bucket.as_ref().map(|bucket| &*bucket.name),
            method: &request.method,
            path: request.uri.path(),
            client: Client::of(ctx.address, ctx.user),
            actor: ctx.actor.as_deref(),
            status,
            bytes: session.body_bytes_sent(),
            duration: ctx.started.elapsed(),
            upstream: ctx.upstream.latency,
            // Not when the answer had begun before things went wrong.
            rejection: ctx.rejection.as_ref().filter(|rejection| rejection.status() == status.as_u16()),
            would_refuse: ctx.admission.as_ref().and_then(Admission::would_refuse),
            refusal: refusal(ctx),
            reason: reason(ctx, error),
        }
        .record(&self.operators.metrics);
        if let Some(downstream) = &ctx.downstream {
            downstream.expect_header(ctx.generation.config.limits.header);
        }
    }

    /// Pingora logs the query string here.
    fn request_summary(&self, _session: &Session, ctx: &Context) -> String {
        format!("request {}", ctx.request_id)
    }

    /// Every request has its own line already.
    fn suppress_error_log(&self, _session: &Session, _ctx: &Context, _error: &Error) -> bool {
        true
    }
}

impl Gateway {
    /// Admits. Where a token speaks of an unknown key, looks once more when the keys were fetched; where a
    /// service is to be asked, waits for what it has to say.
    async fn admit(
        &self,
        generation: &Generation,
        request: &Parts,
        address: Option<IpAddr>,
        received: SystemTime,
    ) -> std::result::Result<Admission, Unadmitted> {
        let admitted = match admit(generation, request, address, received) {
            outcome if lacks_a_key(&outcome) && self.issuers.ask(&generation.config.jwks).await => {
                admit(generation, request, address, SystemTime::now())
            }
            outcome => outcome,
        };
        match admitted? {
            Admitted::Outright(admission) => Ok(admission),
            Admitted::Pending(question) => {
                let bucket = question.bucket();
                // Boxed, or the future of every request would have room for it: 5 % more instructions.
                let asked = Box::pin(self.services.ask(bucket, question.external(), question.text()));
                let decision = asked.await;
                count_external_decision(&self.operators.metrics, bucket, &decision);
                question.answered(decision)
            }
        }
    }

    /// Counts a failure and keeps it as the reason, unless a later attempt succeeds.
    fn upstream_failed(&self, ctx: &mut Context, kind: UpstreamError) {
        if let Some(bucket) = &ctx.bucket {
            count_upstream_error(&self.operators.metrics, &bucket.name, kind);
        }
        ctx.rejection = Some(Rejection::Upstream(kind));
    }
}

fn admitted(ctx: &Context) -> Result<&Admission> {
    ctx.admission.as_ref().ok_or_else(|| Error::explain(ErrorType::InternalError, "no admission"))
}
