//! Weir's own certificate authority and the leafs that agents see.
