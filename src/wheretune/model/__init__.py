"""The only folder that knows how Hugging Face lays models out."""
