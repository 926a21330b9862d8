"""Rows: one client library each, behind the one protocol of `protocol`; `catalogue` names them all."""
