//! From the text of a configuration file to trees with places, references and problems.
//!
//! Knows YAML and files, and none of the keys.

pub(crate) mod decode;
pub(crate) mod document;
mod location;
mod nesting;
pub(crate) mod permissions;
pub(crate) mod placeholder;
pub(crate) mod problem;
pub(crate) mod redaction;
pub(crate) mod reference;
pub(crate) mod source;
mod syntax;
pub(crate) mod tree;
