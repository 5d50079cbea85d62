"""The default teacher, `conse`, and the embedder of class names for whichever teacher a config names."""

from detectron2.config import LazyCall as L

from ovdet.text.embedder import NameEmbedder

teacher = dict(name="conse", width=384, templates="a", embeddings=None)
name_embedder = L(NameEmbedder)(
    teacher="${teacher.name}", width="${teacher.width}", templates="${teacher.templates}", file="${teacher.embeddings}"
)
