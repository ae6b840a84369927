"""``symmd verify``: whether a model file does what a potential has to, in every engine (docs/verify.md)."""
