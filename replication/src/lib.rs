//! Replication: Raft groups over partitions.
//!
//! # Not done
//! All of it. One node serves its partitions alone. The seam is `logcore`'s commit rule: the owner of a partition asks, after
//! each flush, how far its log is committed; standalone that is what is durable here. Frames carry terms, dense indexes and a
//! chain of checksums from the first release, so that logs written now can be replicated later.

#![forbid(unsafe_code)]
