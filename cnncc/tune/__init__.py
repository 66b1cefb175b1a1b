"""Tuning: tiles and algorithms measured on this machine, kept in a database that compilations look up."""
