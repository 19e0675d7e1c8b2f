//! Sizes of a 3 x 3 convolution, and where the pixels that its tiles look at lie.

/// With fewer input channels, products would be too thin.
pub(super) const WINOGRAD_CHANNELS: usize = 8;
/// Rows of products that are worked on at a time: what is transformed should stay in a core's cache.
const PRODUCTS_AT_A_TIME: usize = 2304;
/// Rows that are added up before they join a sum, for the sake of accuracy.
pub(super) const ROWS_AT_A_TIME: usize = 64;
/// In place of where a pixel lies, if it is beyond an edge.
pub(super) const OUTSIDE: usize = usize::MAX;

/// Sizes of a 3 x 3 convolution in steps of one, whose outputs are computed in tiles of 2 x 2 or 4 x 4.
#[derive(Clone, Copy, Debug)]
pub(in crate::ops) struct Geometry {
    pub batch: usize,
    pub height: usize,
    pub width: usize,
    pub inputs: usize,
    pub outputs: usize,
    /// Rows and columns of zeros above and left of the images.
    pub padding: [usize; 2],
    /// Rows and columns of outputs.
    pub size: [usize; 2],
    /// Outputs along a side of a tile.
    pub tile: usize,
}

impl Geometry {
    pub fn new(
        [batch, height, width, inputs]: [usize; 4],
        outputs: usize,
        padding: [usize; 2],
        size: [usize; 2],
    ) -> Self {
        // Products of an image. Larger tiles have fewer, but are less exact: only for a gain that is worth it.
        let products = |tile: usize| {
            let [rows, columns] = size.map(|side| side.div_ceil(tile));
            (tile + 2) * (tile + 2) * rows * columns
        };
        let is_large = inputs >= WINOGRAD_CHANNELS && 10 * products(4) <= 9 * products(2);
        Self {
            batch,
            height,
            width,
            inputs,
            outputs,
            padding,
            size,
            tile: if is_large { 4 } else { 2 },
        }
    }

    /// Of the block: padding 1, and outputs for the windows that pooling sees, with nothing for a last odd row or column.
    pub fn pooled(image: [usize; 4], outputs: usize) -> Self {
        let size = [image[1], image[2]].map(|side| side / 2 * 2);
        Self::new(image, outputs, [1, 1], size)
    }

    /// Rows and columns of pooled outputs.
    #[inline]
    pub fn pooled_size(&self) -> [usize; 2] {
        self.size.map(|side| side / 2)
    }

    /// Pooled outputs of an image.
    #[inline]
    pub(super) fn windows_per_image(&self) -> usize {
        self.pooled_size().iter().product()
    }

    pub(super) fn windows(&self) -> usize {
        self.batch * self.windows_per_image()
    }

    /// Pixels that a tile looks at, which are as many as the products that it takes.
    #[inline]
    pub(super) fn positions(&self) -> usize {
        (self.tile + 2) * (self.tile + 2)
    }

    /// Rows and columns of tiles.
    #[inline]
    fn grid(&self) -> [usize; 2] {
        self.size.map(|side| side.div_ceil(self.tile))
    }

    #[inline]
    pub(super) fn tiles_per_image(&self) -> usize {
        self.grid().iter().product()
    }

    /// Tiles of whole images of the input.
    #[inline]
    pub(super) fn tiles_of(&self, images: &[f32]) -> usize {
        images.len() / self.image() * self.tiles_per_image()
    }

    /// Whole images that are worked on at a time.
    pub(super) fn chunk(&self) -> usize {
        (PRODUCTS_AT_A_TIME / (self.positions() * self.tiles_per_image())).clamp(1, self.batch)
    }

    pub(super) fn chunks(&self) -> usize {
        self.batch.div_ceil(self.chunk())
    }

    /// Tiles of the chunk of this number; the last may have fewer.
    pub(super) fn tiles_in(&self, chunk: usize) -> usize {
        self.chunk().min(self.batch - chunk * self.chunk()) * self.tiles_per_image()
    }

    /// Room for a chunk's tiles, `[position][tile][channels]`.
    pub(super) fn chunk_tiles(&self, channels: usize) -> usize {
        self.positions() * self.chunk() * self.tiles_per_image() * channels
    }

    /// Room for transformed filters, `[position][inputs][outputs]`.
    pub(super) fn filters(&self) -> usize {
        self.positions() * self.inputs * self.outputs
    }

    /// Pooled values in a chunk.
    pub(super) fn chunk_windows(&self) -> usize {
        self.chunk() * self.windows_per_image() * self.outputs
    }

    pub(super) fn winograd(&self) -> bool {
        self.inputs >= WINOGRAD_CHANNELS
    }

    /// Floats in an image.
    pub(super) fn image(&self) -> usize {
        self.height * self.width * self.inputs
    }

    /// Floats in an image of the result.
    pub(super) fn result(&self) -> usize {
        self.size[0] * self.size[1] * self.outputs
    }

    /// The image of a tile of a chunk, and row and column of its first output.
    #[inline(always)]
    pub(super) fn place(&self, tile: usize) -> [usize; 3] {
        let (per_image, columns) = (self.tiles_per_image(), self.grid()[1]);
        let (image, tile) = (tile / per_image, tile % per_image);
        [
            image,
            self.tile * (tile / columns),
            self.tile * (tile % columns),
        ]
    }

    /// Where the `SIDE` x `SIDE` pixels that tile `tile` of a chunk looks at start in the chunk's images, or [`OUTSIDE`].
    #[inline(always)]
    pub(super) fn pixels<const SIDE: usize>(&self, tile: usize) -> [[usize; SIDE]; SIDE] {
        let [image, row, column] = self.place(tile);
        let [top, left] = self.padding;
        let mut pixels = [[OUTSIDE; SIDE]; SIDE];
        for i in 0..SIDE {
            for j in 0..SIDE {
                // Those above and left wrap around to what is too large as well.
                let (y, x) = ((row + i).wrapping_sub(top), (column + j).wrapping_sub(left));
                if y < self.height && x < self.width {
                    pixels[i][j] = ((image * self.height + y) * self.width + x) * self.inputs;
                }
            }
        }
        pixels
    }
}
