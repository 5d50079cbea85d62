"""From class names to class embeddings."""

from ovdet.text.embeddings import TextEmbeddings, convert_matrix, embed_vocabulary, load_embeddings
from ovdet.text.name_embedder import NameEmbedder
from ovdet.text.prompts import TEMPLATE_SETS, clean_name, fill_template, resolve_templates
from ovdet.text.vocabulary import Vocabulary, parse_vocabulary

__all__ = [
    "TEMPLATE_SETS",
    "NameEmbedder",
    "TextEmbeddings",
    "Vocabulary",
    "clean_name",
    "convert_matrix",
    "embed_vocabulary",
    "fill_template",
    "load_embeddings",
    "parse_vocabulary",
    "resolve_templates",
]
