//! Operators' requests: which they are, who asks, and what `admin` answers.

use std::time::{Instant, SystemTime};

use pingora::proxy::Session;

use crate::access::denied::Denied;
use crate::answer::Answer;
use crate::gateway::Gateway;
use crate::gateway::client_body::read_body;
use crate::gateway::context::Context;
use crate::gateway::rejection::Rejection;
use crate::operators::{self, Call, Endpoint};
use crate::s3::query::Query;
use crate::tokens::invalid_token::InvalidToken;
use crate::tokens::principal::Principal;

impl Gateway {
    /// The operators' endpoint that a request is for, if it is served on this port.
    pub(crate) fn endpoint(&self, session: &Session, ctx: &Context) -> Option<Endpoint> {
        let endpoint = Endpoint::at(session.req_header().uri.path())?;
        let is_shared = ctx.generation.config.operators.listen.is_none();
        (self.is_for_operators || is_shared || endpoint.is_health()).then_some(endpoint)
    }

    pub(crate) async fn operators_answer(
        &self,
        endpoint: Endpoint,
        session: &mut Session,
        ctx: &mut Context,
    ) -> Answer {
        if is_switched_off(endpoint, ctx) {
            ctx.rejection = Some(Rejection::NoRoute);
            return operators::absent();
        }
        // Before everything else: who may not know an endpoint may neither learn its methods nor make us
        // read a body.
        let principal = match self.principal(endpoint, session, ctx).await {
            Ok(principal) => principal,
            Err(rejection) => {
                let answer = match &rejection {
                    Rejection::Throttled(wait) => operators::throttled(*wait),
                    Rejection::Denied(denied) => operators::refusal(denied),
                    other => other.answer(&session.req_header().headers, &ctx.request_id),
                };
                ctx.rejection = Some(rejection);
                return answer;
            }
        };
        let body = if endpoint.takes_a_body() { Some(read_body(session).await) } else { None };
        let request = session.req_header();
        let call = Call {
            endpoint,
            method: &request.method,
            headers: &request.headers,
            query: Query::new(request.uri.query().unwrap_or_default()),
            body,
        };
        self.operators.answer(call, principal).await
    }

    /// Who asks, if it is somebody who may.
    async fn principal(
        &self,
        endpoint: Endpoint,
        session: &Session,
        ctx: &mut Context,
    ) -> Result<Principal, Rejection> {
        if !endpoint.is_below_admin() {
            return Ok(Principal::default());
        }
        let operators = &ctx.generation.config.operators;
        if let Some(user) = ctx.user {
            let name = user.to_string();
            ctx.actor = Some(name.clone());
            if operators.socket_uids.contains(&user.uid) {
                return Ok(Principal { subject: Some(name), ..Principal::default() });
            }
        } else {
            self.operators.limiter.check(ctx.address, Instant::now()).map_err(Rejection::Throttled)?;
        }
        let headers = &session.req_header().headers;
        // Without the query: it ends up in logs.
        let authenticate = || operators.rule.authenticate(headers, Query::default(), SystemTime::now());
        let mut authenticated = authenticate();
        if authenticated == Err(Denied::Token(InvalidToken::UnknownKey))
            && self.issuers.ask(&ctx.generation.config.jwks).await
        {
            authenticated = authenticate();
        }
        // At the socket the kernel names the user, so guessing gains nothing.
        if ctx.user.is_none() && authenticated.as_ref().is_err_and(|denied| denied.row().counts_as_guess) {
            self.operators.limiter.failed(ctx.address, Instant::now());
        }
        let principal = authenticated.map_err(Rejection::Denied)?;
        let permitted = operators.rule.permit(&principal);
        ctx.actor = principal.subject.clone().or(ctx.actor.take());
        permitted.map(|()| principal).map_err(Rejection::Denied)
    }
}

/// Whether an endpoint is not there, with any method.
pub(super) fn is_switched_off(endpoint: Endpoint, ctx: &Context) -> bool {
    endpoint.is_below_admin() && !ctx.generation.config.operators.enabled
}
