"""The object of a request → arrays that fit the spec of a policy. Pure."""
