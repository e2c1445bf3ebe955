// Not compiled here. Classifies photos with a bundle's model.tflite in MediaPipe.
//
// build.gradle.kts: implementation("com.google.mediapipe:tasks-vision:latest.release") and
// androidResources { noCompress += "tflite" }; model.tflite in app/src/main/assets. The class names
// are in the file. Export a gray model with --rgb.

package com.example.vision

import android.content.Context
import android.graphics.Bitmap
import android.graphics.RectF
import com.google.mediapipe.framework.image.BitmapImageBuilder
import com.google.mediapipe.tasks.core.BaseOptions
import com.google.mediapipe.tasks.vision.core.ImageProcessingOptions
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier
import com.google.mediapipe.tasks.vision.imageclassifier.ImageClassifier.ImageClassifierOptions
import java.io.Closeable

/** [size] and [cropFraction] are `image_size` and `resize.crop_fraction` of bundle.json. */
class PhotoClassifier(context: Context, private val size: Int, private val cropFraction: Double) :
    Closeable {
    private val classifier = ImageClassifier.createFromOptions(
        context,
        ImageClassifierOptions.builder()
            .setBaseOptions(BaseOptions.builder().setModelAssetPath("model.tflite").build())
            .setMaxResults(5)
            .build(),
    )

    /** Returns the five most probable classes of an upright ARGB_8888 bitmap, the best first. */
    fun classify(photo: Bitmap): List<Pair<String, Float>> {
        val options = ImageProcessingOptions.builder()
            .setRegionOfInterest(region(photo.width, photo.height))
            .build()
        val result = classifier.classify(BitmapImageBuilder(photo).build(), options)
        // the second head is the embedding
        val probabilities = result.classificationResult().classifications()[0]
        return probabilities.categories().map { it.categoryName() to it.score() }
    }

    /** The part of a photo that the bundle's own resize keeps, in shares of its sides. */
    private fun region(width: Int, height: Int): RectF {
        val shorter = (size / cropFraction).toInt() // the shorter side after resizing
        val wide = shorter * width / minOf(width, height)
        val high = shorter * height / minOf(width, height)
        val left = Math.rint((wide - size) / 2.0)
        val top = Math.rint((high - size) / 2.0)
        return RectF(
            (left / wide).toFloat(),
            (top / high).toFloat(),
            ((left + size) / wide).toFloat(),
            ((top + size) / high).toFloat(),
        )
    }

    override fun close() = classifier.close()
}
