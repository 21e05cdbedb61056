"""Routes: which message goes where and made into what, one file for each business flow."""
