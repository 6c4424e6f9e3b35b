"""The nouns people write down: frozen, validated, pure."""
