//! The XML error document (Amazon S3 API Reference, "REST error responses").

/// An error document. `code` and `message` are our own words and `request_id` is of a safe
/// alphabet, so none of them needs escaping.
pub fn document(code: &str, message: &str, request_id: &str) -> String {
    format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<Error><Code>{code}</Code><Message>{message}</Message><RequestId>{request_id}</RequestId></Error>"
    )
}

/// The `Code` of a store's error document, for the log: a name of letters, or nothing.
pub fn code_in(document: &[u8]) -> Option<&str> {
    let text = std::str::from_utf8(document).ok()?;
    let code = text.split_once("<Code>")?.1.split_once("</Code>")?.0;
    let is_name = (1..=64).contains(&code.len()) && code.bytes().all(|byte| byte.is_ascii_alphanumeric());
    is_name.then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_code_of_a_document_is_found() {
        let document = document("NoSuchKey", "no object has this key", "abc");
        assert_eq!(code_in(document.as_bytes()), Some("NoSuchKey"));
        assert_eq!(code_in(b"<Error><Code>a b\n</Code>"), None);
        assert_eq!(code_in(b"<Error><Code></Code>"), None);
        assert_eq!(code_in(b"\xff"), None);
        assert_eq!(code_in(b""), None);
    }
}
