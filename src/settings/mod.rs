//! From the text of a configuration file to trees with places, references and problems.
//!
//! Knows YAML and files, and none of the keys.

pub mod decode;
pub mod document;
mod location;
mod nesting;
pub mod permissions;
pub mod placeholder;
pub mod problem;
pub mod redaction;
pub mod reference;
pub mod source;
mod syntax;
pub mod tree;
