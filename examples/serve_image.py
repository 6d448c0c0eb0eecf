"""An image filter behind HTTP: a picture in, a picture out.

    python examples/serve_image.py                   serves it to itself, and sends it a picture
    soma serve examples/serve_image.py --port 5000   serves it to others, until Ctrl-C:

    echo "{\\"input\\": {\\"image\\": \\"data:image/png;base64,$(base64 -w0 photo.png)\\"}}" |
        curl -s localhost:5000/predictions -H 'Content-Type: application/json' -d @- |
        sed 's/.*;base64,//; s/".*//' | base64 -d > drawing.png

Clients give a URL or a data URI, the predictor gets a path; the path it gives becomes a data URI, or is sent to `--upload-url`. Its files
are removed when the answer is there. Needs Pillow: pip install pillow "soma[serve]"
"""

import base64
import io
import tempfile

import numpy as np
from PIL import Image

import soma
from soma.serve import BasePredictor, Input, Path, current_scope


class Drawing(BasePredictor):
    """Makes a picture look drawn with a pencil: dark where it changes."""

    def predict(self, image: Path = Input(description="The picture", accept="image/*"),
                strength: float = Input(default=2.0, ge=0.1, le=10.0, description="How dark the lines are"),
                format: str = Input(default="png", choices=["png", "jpeg"])) -> Path:
        with Image.open(image) as opened:
            grey = np.asarray(opened.convert("L"), dtype=float)
        down, right = np.gradient(grey)
        lines = np.clip(255 - strength * np.hypot(down, right), 0, 255).astype(np.uint8)
        print(f"{grey.shape[1]} × {grey.shape[0]} pixels")
        current_scope().record_metric("pixels", grey.size)
        with tempfile.NamedTemporaryFile(suffix=f".{format}", delete=False) as made:
            Image.fromarray(lines).save(made, format)
        return Path(made.name)


def uri(picture, kind="png"):
    file = io.BytesIO()
    picture.save(file, kind)
    return f"data:image/{kind};base64,{base64.b64encode(file.getvalue()).decode()}"


def main():
    y, x = np.mgrid[-1:1:200j, -1:1:300j]
    disc = Image.fromarray((255 * (x**2 + y**2 < 0.5)).astype(np.uint8))
    with soma.init(), soma.serve.test_client(f"{__file__}:Drawing", slots=2) as client:
        answer = client.post("/predictions", json={"input": {"image": uri(disc), "strength": 5}}).json()
        head, _, body = answer["output"].partition(",")
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(body))))
        print(f"{answer['logs'].strip()}; {head}, {len(body)} characters; metrics: {answer['metrics']['pixels']} pixels")
        print(f"white: {(drawn == 255).mean():.3f} of it, black: {(drawn == 0).sum()} pixels, all of them near the disc's edge:",
              bool((np.abs(np.hypot(x, y)[drawn == 0] - 0.5**0.5) < 0.02).all()))
        for wrong in ({"image": "data:image/png;base64,AAAA"}, {"image": uri(disc), "format": "gif"}):
            answer = client.post("/predictions", json={"input": wrong}).json()
            print("refused:", answer.get("error") or answer["detail"][0]["msg"])


if __name__ == "__main__":
    main()
