"""Fluctuations over networks of finite width."""
