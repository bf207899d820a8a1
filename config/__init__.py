"""Settings: YAML files and the environment read with clear errors, and files that are watched for changes."""

VERSION = "0.1.0"
"""Bullpen's version, also where the package is not installed, as in the images; pyproject.toml and the images say the
same.
"""
