"""What hosted annotators share: the caller, its manners, its journal and its bill."""
