//! The operations of S3 that clients may ask for (Amazon S3 API Reference, "Actions").

use http::Method;

/// An operation on an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Operation {
    GetObject,
    /// As `GetObject`, without the content.
    HeadObject,
}

impl Operation {
    /// The operation that a method means for an object; `None` for a method that is not served.
    pub(crate) fn of(method: &Method) -> Option<Self> {
        match *method {
            Method::GET => Some(Self::GetObject),
            Method::HEAD => Some(Self::HeadObject),
            _ => None,
        }
    }

    /// The method of a request for it.
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::GetObject => "GET",
            Self::HeadObject => "HEAD",
        }
    }

    const fn bit(self) -> u8 {
        match self {
            Self::GetObject => 1,
            Self::HeadObject => 1 << 1,
        }
    }
}

/// A set of operations, for a rule that is about some of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct OperationSet(u8);

impl OperationSet {
    /// All that read an object.
    pub(crate) const READ: Self = Self(Operation::GetObject.bit() | Operation::HeadObject.bit());
    pub(crate) const HEAD: Self = Self(Operation::HeadObject.bit());

    pub(crate) fn contains(self, operation: Operation) -> bool {
        self.0 & operation.bit() != 0
    }

    /// The number of operations. Fewer operations make a rule more specific.
    pub(crate) fn count(self) -> u32 {
        self.0.count_ones()
    }

    /// Whether both contain some operation, and neither is the more specific set for it.
    pub(crate) fn are_as_specific_as(self, other: Self) -> bool {
        self.0 & other.0 != 0 && self.count() == other.count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_contains_its_operations_and_no_others() {
        for (set, operation, is_in) in [
            (OperationSet::READ, Operation::GetObject, true),
            (OperationSet::READ, Operation::HeadObject, true),
            (OperationSet::HEAD, Operation::GetObject, false),
            (OperationSet::HEAD, Operation::HeadObject, true),
        ] {
            assert_eq!(set.contains(operation), is_in, "{set:?} {operation:?}");
        }
        assert!(OperationSet::HEAD.count() < OperationSet::READ.count());
        assert!(!OperationSet::HEAD.are_as_specific_as(OperationSet::READ));
        assert!(OperationSet::HEAD.are_as_specific_as(OperationSet::HEAD));
    }
}
