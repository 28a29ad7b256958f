pub mod config;
pub mod routing;
pub mod auth;
pub mod s3;
pub mod secret;
