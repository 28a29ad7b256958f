//! Texts that stand where a secret belongs and are none: what a template, an example or a copy left there.
//!
//! A placeholder can be guessed, and so would be everything that it protects. Only a text that is a
//! placeholder as a whole is one; a random secret never has these shapes.

/// The complaint about a secret that is a placeholder, and the remedy. Never quotes the secret.
pub(crate) fn complaint(secret: &str) -> Option<&'static str> {
    if is_cut_off(secret) {
        Some("is cut off: it ends with dots; paste all of it, or refer to it as `${NAME}` or `${file:PATH}`")
    } else if is_unfilled(secret) || is_well_known(secret) {
        Some(
            "is a placeholder that nobody has filled in; write the secret itself, or refer to it as `${NAME}` or `${file:PATH}`",
        )
    } else {
        None
    }
}

fn is_cut_off(secret: &str) -> bool {
    secret.ends_with('…') || secret.ends_with("...")
}

/// Whether it is what another program's templates would have replaced.
fn is_unfilled(secret: &str) -> bool {
    let within =
        |open: &str, close: &str| secret.strip_prefix(open).and_then(|rest| rest.strip_suffix(close));
    let words = |text: &str| {
        text.chars().any(char::is_alphabetic) && text.chars().all(|c| c.is_alphabetic() || " _-.".contains(c))
    };
    secret.strip_prefix('$').is_some_and(is_variable)
        || within("$(", ")").is_some()
        || within("{{", "}}").is_some()
        || within("<", ">").is_some_and(words)
        || [("%", "%"), ("@", "@"), ("__", "__")]
            .iter()
            .any(|(open, close)| within(open, close).is_some_and(is_variable))
}

/// A name as variables have it: all capitals, or small letters in words.
fn is_variable(name: &str) -> bool {
    let has_only = |matches: fn(char) -> bool| name.chars().all(|c| matches(c) || c == '_');
    let is_shouted = has_only(|c| c.is_ascii_uppercase() || c.is_ascii_digit())
        && name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_');
    let is_in_words = has_only(|c| c.is_ascii_lowercase()) && name.contains('_');
    !name.is_empty() && (is_shouted || is_in_words)
}

/// Whether it is what examples write.
fn is_well_known(secret: &str) -> bool {
    let letters: String =
        secret.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase();
    let begins =
        ["changeme", "changethis", "changeit", "replaceme", "replacethis", "replacewith", "insertyour"];
    let is_yours = letters.starts_with("your")
        && ["here", "key", "secret", "token"].iter().any(|end| letters.ends_with(end))
        && letters.bytes().all(|byte| byte.is_ascii_lowercase());
    let is_one_word = ["todo", "fixme", "tbd", "placeholder", "redacted"].contains(&letters.as_str());
    let first = secret.chars().next();
    let is_filler = secret.chars().count() >= 5
        && matches!(first, Some('x' | 'X' | '*' | '?' | '.' | '0' | '-' | '_'))
        && secret.chars().all(|c| Some(c) == first);
    begins.iter().any(|begin| letters.starts_with(begin)) || is_yours || is_one_word || is_filler
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn placeholders_are_no_secrets() {
        for secret in [
            "$JWT_SECRET",
            "$A_VERY_LONG_NAME_OF_A_VARIABLE_OF_1",
            "$jwt_secret",
            "$(JWT_SECRET)",
            "$(cat /run/secrets/jwt)",
            "{{ vault_jwt_secret }}",
            "{{jwt}}",
            "<your secret>",
            "<JWT-SECRET>",
            "%JWT_SECRET%",
            "@JWT_SECRET@",
            "__JWT_SECRET__",
            "changeme",
            "ChangeMe!",
            "change-me-to-something-of-32-characters",
            "CHANGE_THIS",
            "your-secret-here",
            "your-256-bit-secret".replace("256-bit-", "").as_str(),
            "YOUR_ACCESS_KEY",
            "replace-me",
            "xxxxx",
            "XXXXXXXXXXXXXXXXXXXXXXXXXXXXXXXX",
            "********",
            "TODO",
            "placeholder",
            "[redacted]",
            "AKIA…",
            "AKIA...",
            "…",
            "...",
        ] {
            assert!(complaint(secret).is_some(), "{secret}");
        }
    }

    #[test]
    fn secrets_are_no_placeholders() {
        for secret in [
            "a-secret-of-at-least-32-characters",
            "AK",
            "SK",
            "AKIDEXAMPLE",
            "AKIAIOSFODNN7EXAMPLE",
            "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY",
            "hunter2",
            "$2y$10$abcdefghijklmnopqrstuv",
            "$ecretWord",
            "<aZ9+/=>",
            "%7Babc%7D",
            "correct horse battery staple",
            "minioadmin",
            "",
            "$",
            "xxxx",
            "aaaaaaaa",
        ] {
            assert_eq!(complaint(secret), None, "{secret}");
        }
    }

    proptest! {
        #[test]
        fn a_random_secret_is_no_placeholder(secret in "[A-Za-z0-9+/]{20,64}={0,2}|[0-9a-f]{32,64}|[ -~]{24,40}[a-z]") {
            prop_assert_eq!(complaint(&secret), None);
        }
    }
}
